"""Find the project, read its ``invoke.yaml``, and take the environment in: once, and only here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stackyard.edges.files import read_bytes
from stackyard.errors import ConfigError
from stackyard.settings import check_settings
from stackyard.shape import Report, near

__all__ = ["SECRETS", "Environment", "conceal", "find_root", "read_settings"]

SETTINGS_FILE = "invoke.yaml"

#: Variables whose values are never shown.
SECRETS = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "CDASH_AUTH_TOKEN",
        "CI_BUILD_TOKEN",
        "CI_DEPENDENCY_PROXY_PASSWORD",
        "CI_DEPLOY_PASSWORD",
        "CI_JOB_JWT",
        "CI_JOB_TOKEN",
        "CI_REGISTRY_PASSWORD",
        "CI_REPOSITORY_URL",
        "GH_TOKEN",
        "GITHUB_TOKEN",
        "GITLAB_PRIVATE_TOKEN",
        "GITLAB_TOKEN",
        "GITLAB_TRIGGER_TOKEN",
        "SPACK_CDASH_AUTH_TOKEN",
        "SPACK_SIGNING_KEY",
        "STACKYARD_OCI_TOKEN",
    }
)


#: Values that came under other names: variables that a mirror's entry names, tokens in files.
_concealed: set[str] = set()


def conceal(*secrets: str) -> None:
    """Never show these values from now on; empty ones are passed over."""
    _concealed.update(filter(None, secrets))


def find_root(start: str | Path) -> Path:
    """The project that ``start`` lies in: the nearest folder with ``invoke.yaml``.

    Where no folder has one, the nearest with ``stacks/``. Raises ConfigError if there is neither.
    """
    folder = Path(start).absolute()
    folders = (folder, *folder.parents)
    for parent in folders:
        if (parent / SETTINGS_FILE).is_file():
            return parent
    for parent in folders:
        if (parent / "stacks").is_dir():
            return parent
    raise ConfigError(
        f"no {SETTINGS_FILE} and no folder stacks/ here or above",
        where=str(folder),
        hint="go into a project, or begin one here: stackyard init",
    )


def read_settings(
    root: str | Path, *, known_fixes: Iterable[str] | None = None
) -> Mapping[str, Any]:
    """The checked mapping below ``stackyard:`` in the project's ``invoke.yaml``; {} without one.

    Raises ConfigError naming file and line, or file and dotted key.
    """
    path = Path(root) / SETTINGS_FILE
    if not path.is_file():
        return {}
    from stackyard.document import parse_yaml  # not every command has settings

    data = parse_yaml(
        read_bytes(path, ConfigError), SETTINGS_FILE, error=ConfigError, allow_empty=True
    )
    if data is None:
        return {}
    report = Report(SETTINGS_FILE, ConfigError)
    if not isinstance(data, Mapping):
        raise report.wrong("", "a mapping", data)
    for key in data:
        if (
            isinstance(key, str)
            and near(key, ["stackyard"])
            and key != "stackyard"
            and ("did you mean" in near(key, ["stackyard"]))
        ):
            raise report.fail(key, "unknown key", near(key, ["stackyard"]))
    return check_settings(
        data.get("stackyard"), SETTINGS_FILE, known_fixes=known_fixes, key="stackyard"
    )


def _is_true(text: str) -> bool:
    return text.strip().lower() == "true"


@dataclass(frozen=True, slots=True, repr=False)
class Environment(Mapping[str, str]):
    """The environment as it was at one moment. Values of secrets do not show in its repr.

    It is a mapping for reading; the properties give empty text for what is not set.
    """

    variables: Mapping[str, str]

    @classmethod
    def snapshot(cls) -> Environment:
        return cls(dict(os.environ))

    def __repr__(self) -> str:
        return f"Environment({len(self.variables)} variables)"

    def __getitem__(self, name: str) -> str:
        return self.variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)

    def secrets(self) -> tuple[str, ...]:
        """Values to mask in what is printed, the longest first."""
        found = {self.variables[name] for name in SECRETS & set(self.variables)} | _concealed
        return tuple(sorted((text for text in found if len(text) >= 6), key=lambda t: (-len(t), t)))

    def flag(self, name: str) -> bool | None:
        """True for ``true`` in any case, else False; None where the variable is not set."""
        return _is_true(self.variables[name]) if name in self.variables else None

    def whole(self, name: str) -> int | None:
        """A whole number, or None where the variable is not set or empty. ConfigError for others."""
        text = self.get(name, "").strip()
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise ConfigError("must be a whole number", where=f"${name}") from None

    # What ``spack ci generate`` reads.
    @property
    def pipeline_type(self) -> str:
        return self.get("SPACK_PIPELINE_TYPE", "")

    @property
    def prune_up_to_date(self) -> bool | None:
        return self.flag("SPACK_PRUNE_UP_TO_DATE")

    @property
    def prune_untouched(self) -> bool | None:
        return self.flag("SPACK_PRUNE_UNTOUCHED")

    @property
    def prune_untouched_dependent_depth(self) -> int | None:
        return self.whole("SPACK_PRUNE_UNTOUCHED_DEPENDENT_DEPTH")

    @property
    def require_signing(self) -> str | None:
        return self.variables.get("SPACK_REQUIRE_SIGNING")

    @property
    def ci_stack_name(self) -> str | None:
        return self.variables.get("SPACK_CI_STACK_NAME")

    @property
    def copy_buildcache(self) -> str:
        return self.get("SPACK_COPY_BUILDCACHE", "")

    @property
    def skip_dynamic_mapping(self) -> str:
        return self.get("SPACK_CI_SKIP_DYNAMIC_MAPPING", "")

    # Services.
    @property
    def cdash_token(self) -> str:
        return self.get("SPACK_CDASH_AUTH_TOKEN", "") or self.get("CDASH_AUTH_TOKEN", "")

    @property
    def cdash_build_stamp(self) -> str:
        return self.get("SPACK_CDASH_BUILD_STAMP", "")

    # The job we run in.
    @property
    def in_ci(self) -> bool:
        """Whether this is a job of a CI system: all of them set ``CI``."""
        return self.get("CI", "").lower() not in ("", "0", "false")

    @property
    def ci_project_dir(self) -> str:
        return self.get("CI_PROJECT_DIR", "")

    @property
    def ci_job_name(self) -> str:
        return self.get("CI_JOB_NAME", "")

    @property
    def ci_pipeline_id(self) -> str:
        return self.get("CI_PIPELINE_ID", "")
