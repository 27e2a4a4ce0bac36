"""How an image is built by an engine: its names, what the Dockerfile is told, what the engine says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stackyard.errors import ConfigError
from stackyard.image import LABELS
from stackyard.image_names import parse_image_name

__all__ = [
    "BuildLog",
    "Failure",
    "PushLog",
    "context_patterns",
    "kit_lines",
    "label_arguments",
    "layer_count",
    "local_repository",
    "tagged_names",
    "web_url",
]

_NO_NAME = re.compile(r"[^a-z0-9]+")


def local_repository(repository: str, stack: str) -> str:
    """Where an image goes: ``image.repository``, else a name that only this machine knows.

    Raises ConfigError for a repository with a tag, or one that is none.
    """
    if not repository:
        return f"localhost/{_NO_NAME.sub('-', stack.lower()).strip('-')}"
    name = parse_image_name(repository, "image.repository")
    if name.tag or name.digest:
        raise ConfigError(
            f"{repository!r} has a tag",
            where="image.repository",
            hint="leave it away: tags are named when an image is built",
        )
    return repository


def tagged_names(repository: str, tags: Iterable[str], *, where: str = "--tag") -> tuple[str, ...]:
    """Whole names for tags; what is a whole name already stays. None at all means ``latest``.

    Raises ConfigError for what cannot be a tag.
    """
    names = []
    for tag in tuple(tags) or ("latest",):
        whole = tag if re.search("[/:@]", tag) else f"{repository}:{tag}"
        name = parse_image_name(whole, where)
        if name.digest or not name.tag:
            raise ConfigError(f"{tag!r} is not a tag", where=where, hint="such as latest or sc26")
        names.append(whole)
    return tuple(dict.fromkeys(names))


def layer_count(told: Mapping[str, Any]) -> int:
    """Of an image, of which an engine ``told`` all that it knows; 0 if not that."""
    return len((told.get("RootFS") or {}).get("Layers") or ())


def web_url(remote: str) -> str:
    """A clone's remote as browsers go there, without anybody's name; empty for a folder."""
    scheme, separator, rest = remote.partition("://")
    if separator:
        if scheme not in ("http", "https", "ssh", "git", "git+ssh"):
            return ""
        host, _, path = rest.partition("/")
        host = host.rpartition("@")[2]
        if scheme not in ("http", "https"):
            host = host.partition(":")[0]
    else:
        before, separator, path = remote.partition(":")
        if not separator or "/" in before:
            return ""
        host = before.rpartition("@")[2]
    path = path.strip("/").removesuffix(".git")
    return f"https://{host}/{path}" if host and path else ""


def label_arguments(labels: Mapping[str, str]) -> Mapping[str, str]:
    """The labels as the Dockerfile is told them: ``...image.base.name`` is ``BASE_NAME``."""
    return {_argument(name): labels.get(name, "") for name in LABELS if not name.endswith(".title")}


def _argument(label: str) -> str:
    short = label.removeprefix("org.opencontainers.image.").removeprefix("dev.stackyard.")
    return re.sub("[.-]", "_", short).upper()


def context_patterns(
    ignore: str, needed: Iterable[str], not_needed: Iterable[str] = ()
) -> tuple[str, ...]:
    """Lines of a ``.dockerignore``, and behind them what a build needs in any case.

    What is ``not_needed`` stays out, but for what is needed of it.
    """
    lines = (line.strip() for line in ignore.splitlines())
    kept = [line for line in lines if line and not line.startswith("#")]
    return (*kept, *not_needed, *(f"!{path}" for path in needed))


_STEP = re.compile(r"(?:\[\d+/\d+\] )?(?:STEP|Step) (\d+)/(\d+) ?: (.*)")
#: Steps that take no time, and there are many of them.
_SILENT = re.compile(r"ARG |COPY --from=\S+ /layers/(?!00)\d\d/ /$")
#: What colours and moves in a terminal.
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
#: What tells nothing: ids of layers and containers that nobody asked for.
_NOISE = re.compile(
    r"( ---> (Running in |Using cache)?(?:[0-9a-f]{12})?|Removing intermediate container [0-9a-f]+"
    r"|--> [0-9a-f]{11,64}|--> Using cache [0-9a-f]{64}|[0-9a-f]{64}|Successfully (built|tagged) .*|\[Warning\] .*not consumed.*)"
)
_KEPT = 20


class Failure(NamedTuple):
    """Why a build ended: what the engine says, the step, and that step's last lines."""

    reason: str
    step: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        """The step, and the error that a program in it told, else what the engine says."""
        step = f"{self.step}: " if self.step else ""
        for number, line in reversed(tuple(enumerate(self.lines))):
            if line.startswith("error: "):
                return step + "\n  ".join((line.removeprefix("error: "), *self.lines[number + 1 :]))
        return step + self.reason


class BuildLog:
    """Makes lines of the events that an engine sends while it builds.

    ``failure`` is set once one tells of an error; ``image`` is the id of what was built.
    """

    def __init__(self) -> None:
        self.image = ""
        self.failure: Failure | None = None
        self._step = ""
        self._lines: list[str] = []
        self._rest = ""

    def lines(self, event: Mapping[str, Any]) -> Sequence[str]:
        """What to show of an event: a mapping as the engine's JSON has it."""
        if aux := event.get("aux"):
            self.image = str(aux.get("ID", "")) or self.image
        if reason := event.get("error"):
            reason = str(reason).strip()
            shown = [line for line in (self._take("\n") if self._rest else []) if line]
            self.failure = Failure(reason, self._step, tuple(self._lines[-_KEPT:]))
            return shown
        if text := event.get("stream"):
            return self._take(str(text))
        status = str(event.get("status", ""))
        if not status or event.get("progressDetail") or event.get("id"):
            return []  # of layers that come and go, many a second
        return [status]

    def _take(self, text: str) -> Sequence[str]:
        *whole, self._rest = (self._rest + text).split("\n")
        shown = []
        for line in whole:
            line = _plain(line)  # noqa: PLW2901
            if step := _STEP.fullmatch(line):
                self._step = f"step {step[1]} of {step[2]}, {_short(step[3])}"
                self._lines = []
                if _SILENT.match(step[3]):
                    continue
                line = self._step  # noqa: PLW2901
            elif _NOISE.fullmatch(line) or not line:
                continue
            else:
                self._lines.append(line)
            shown.append(line)
        return shown


def _plain(line: str) -> str:
    """As a terminal shows it in the end: what was drawn over is gone.

    Programs that think themselves in a terminal, such as dpkg below apt-get, end lines with it too.
    """
    return _COLOUR.sub("", line).rstrip().rpartition("\r")[2]


def _short(instruction: str) -> str:
    """An instruction on one line, and not all of a long one."""
    text = " ".join(instruction.replace("\\", " ").split())
    return text if len(text) <= 100 else f"{text[:99]}…"


_KIT = re.compile(r"#\d+ (?:(\d+\.\d+) )?(.*)")
_KIT_NOISE = re.compile(
    r"\[internal\]|sha256:|DONE |CACHED|extracting |resolve |transferring |exporting |writing |naming "
    r"|\[[^]]*\] COPY --from=\S+ /layers/(?!00)\d\d/ /$|$"
)


def kit_lines(line: str) -> Sequence[str]:
    """What to show of a line that BuildKit says in plain words."""
    found = _KIT.fullmatch(line)
    text = _plain(found[2] if found else line)
    if not text or (found and not found[1] and _KIT_NOISE.match(text)):
        return []
    return [text]


_DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64})")


class PushLog:
    """Makes lines of the events of a push; ``digest`` is what the registry has then."""

    def __init__(self) -> None:
        self.digest = ""
        self.error = ""
        self._layers: dict[str, str] = {}

    def lines(self, event: Mapping[str, Any]) -> Sequence[str]:
        """What to show of an event; of layers, when they are there."""
        if aux := event.get("aux"):
            self.digest = str(aux.get("Digest", "")) or self.digest
        if reason := event.get("error"):
            self.error = str(reason).strip()
            return []
        status = str(event.get("status", "")).strip()
        if found := _DIGEST.search(status):
            self.digest = found[1]
            return []
        layer = str(event.get("id", ""))
        if layer and status in ("Pushed", "Layer already exists"):
            self._layers[layer] = status
        return []

    @property
    def summary(self) -> str:
        """How many layers went there, and how many were there already; empty if nobody said."""
        new = sum(status == "Pushed" for status in self._layers.values())
        old = len(self._layers) - new
        return f"{new} layers pushed, {old} already there" if self._layers else ""
