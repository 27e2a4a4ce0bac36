"""Every error that a user can meet, and the exit code that scripts can rely on.

StackyardError        1  anything else of ours
├─ ConfigError        2  settings, stack or lock are wrong: names file and dotted key
│  ├─ StackError         spack.yaml, stack.yaml or a file they include
│  ├─ LockError          spack.lock: shape, dangling hash, cycle, duplicate key
│  └─ SpecError          a spec string that cannot be parsed or settled
├─ StaleError         3  a committed file is not what it should be (carries the diff)
├─ LimitError         4  a CI system cannot hold the pipeline
├─ ToolError          5  a program is missing or failed
└─ StoreError         6  mirror or registry: base of the five below
   ├─ NotFoundError      the thing itself is certainly not there
   ├─ DeniedError        there, but not for us
   ├─ UnreachableError   nobody can say whether it is there
   ├─ CorruptError       it is there and wrong
   └─ ConflictError      somebody else wrote it in the meantime
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ConflictError",
    "CorruptError",
    "DeniedError",
    "LimitError",
    "LockError",
    "NotFoundError",
    "SpecError",
    "StackError",
    "StackyardError",
    "StaleError",
    "StoreError",
    "ToolError",
    "UnreachableError",
]


class StackyardError(Exception):
    """Base of all errors that are shown to people without a traceback.

    ``message`` says what is wrong, ``where`` names the file and dotted key, or the URL,
    ``hint`` says what to do next.
    """

    code = 1

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        return f"{head}\n  hint: {self.hint}" if self.hint else head


class ConfigError(StackyardError):
    """Settings, stack or lock are wrong."""

    code = 2


class StackError(ConfigError):
    """A stack's ``spack.yaml`` or ``stack.yaml``, or a file it includes, is wrong."""


class LockError(ConfigError):
    """A ``spack.lock`` is wrong."""


class SpecError(ConfigError):
    """A spec string cannot be parsed, or the lock cannot settle what it asks."""


class StaleError(StackyardError):
    """A file is not what the sources say that it should be; ``diff`` shows how."""

    code = 3

    def __init__(self, message: str, *, where: str = "", hint: str = "", diff: str = "") -> None:
        super().__init__(message, where=where, hint=hint)
        self.diff = diff


class LimitError(StackyardError):
    """A limit of the CI system would be exceeded."""

    code = 4


class ToolError(StackyardError):
    """A program is missing or failed."""

    code = 5


class StoreError(StackyardError):
    """A mirror or registry did not give what was asked."""

    code = 6


class NotFoundError(StoreError):
    """The place answered, and the thing is certainly not there."""


class DeniedError(StoreError):
    """The place answered that we may not have it."""


class UnreachableError(StoreError):
    """No usable answer: nobody can say whether the thing is there."""


class CorruptError(StoreError):
    """The thing is there and is not what it claims to be."""


class ConflictError(StoreError):
    """Somebody else wrote the thing in the meantime."""
