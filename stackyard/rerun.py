"""The scripts with which a job runs again, in a container or on a machine like its runner's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stackyard.pins import Pin
from stackyard.prelude import clone_lines
from stackyard.reproduce import Job

__all__ = ["HERE", "Container", "container_words", "engine_script", "install_text", "job_script"]

#: Where the folder with the scripts is in the container.
HERE = "/reproduce"

_REFERENCE = re.compile(r"\$\$|\$\{([A-Za-z_]\w*)\}|\$([A-Za-z_]\w*)", re.ASCII)
#: What the scripts set themselves.
_OURS = frozenset(
    {
        "CI_JOB_NAME",
        "CI_PROJECT_DIR",
        "SPACK_CHECKOUT_VERSION",
        "SPACK_PACKAGES_CHECKOUT_VERSION",
        "SPACK_PACKAGES_REPO",
        "SPACK_REPO",
    }
)

_HEAD = """#!/bin/sh
# {title}
# Made by `stackyard reproduce`. Give it the folder of the project (default: project beside it), and
# the word shell to look around instead of building.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd) || exit 1
CI_PROJECT_DIR=${{1:-$here/project}}
export CI_PROJECT_DIR
cd "$CI_PROJECT_DIR" || exit 1
# A bootstrapped concretizer stays for the next run.
: "${{SPACK_USER_CACHE_PATH:=$here/cache}}"
export SPACK_USER_CACHE_PATH
"""
_TAIL = """
for key in "$here"/keys/*; do
  [ ! -f "$key" ] || spack gpg trust "$key" || exit 1
done
spack env activate --without-view "$CI_PROJECT_DIR"/{environment} || exit 1
if [ "${{2:-}}" = shell ]; then
  printf '%s\\n' "Spack is ready. The build: sh $here/install.sh" >&2
  if command -v bash >/dev/null 2>&1; then exec bash; fi
  exec sh
fi
sh "$here/install.sh"
"""


def job_script(job: Job, spack: Pin, packages: Pin | None, *, before_script: bool) -> str:
    """What runs in the container: variables, the pinned Spack, the environment, the build.

    The job's ``before_script`` stands there as comments, as it may want what is not here, or with
    ``before_script`` as it is.
    """
    own = {
        "CI_JOB_NAME": job.name,
        "SPACK_REPO": spack.repo,
        "SPACK_CHECKOUT_VERSION": spack.version,
        "SPACK_PACKAGES_REPO": packages.repo if packages else "",
        "SPACK_PACKAGES_CHECKOUT_VERSION": packages.version if packages else "",
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in own.items()]
    given = {name: value for name, value in job.variables.items() if name not in _OURS}
    # What names others comes after them.
    order = sorted(given, key=lambda name: bool(_REFERENCE.search(given[name])))
    lines += [f"export {name}={_shell_value(given[name])}" for name in order]
    title = " ".join(f"The job {job.name}, again.".split())
    return "\n".join(
        (
            _HEAD.format(title=title),
            *lines,
            "",
            clone_lines(),
            *_before(job.before_script, kept=before_script),
            _TAIL.format(environment=shlex.quote(job.environment)),
        )
    )


def _before(lines: Sequence[str], *, kept: bool) -> Iterable[str]:
    if not lines:
        return
    if kept:
        yield "# The job's before_script."
        yield from lines
        return
    yield "# The job's before_script; take the marks away if the build needs it."
    for line in lines:
        yield from (f"# {part}" for part in line.splitlines())


def _shell_value(text: str) -> str:
    """A value as GitLab reads it, for a shell: names of variables are filled, ``$$`` is a dollar."""
    if "$" not in text:
        return shlex.quote(text)
    parts, last = [], 0
    for match in _REFERENCE.finditer(text):
        parts.append(_literal(text[last : match.start()]))
        name = match[1] or match[2]
        parts.append(f"${{{name}:-}}" if name else _literal("$"))
        last = match.end()
    return f'"{"".join(parts)}{_literal(text[last:])}"'


def _literal(text: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", text)


def install_text(text: str, job: Job, project_dir: str) -> str:
    """``install.sh`` for wherever the project lies now; or what Spack would have written there.

    Its words stand in double quotes, so that a shell fills a variable in them.
    """
    if text:
        return text.replace(f'"{project_dir}/', '"$CI_PROJECT_DIR/')
    command = (
        "spack --color=always --backtrace --verbose install "
        "--use-buildcache=package:never,dependencies:only --no-check-signature"
    )
    return (
        "#!/bin/sh\nset -e\n"
        f"{command} --only=dependencies /{shlex.quote(job.hash)}\n"
        f"{command} --keep-stage --only=package /{shlex.quote(job.hash)}\n"
    )


class Container(NamedTuple):
    """What to run a job in. ``folder`` holds the scripts; variables come by name, from outside."""

    engine: Sequence[str]
    image: str
    folder: str
    project_dir: str
    entrypoint: bool = False
    folders: Sequence[str] = ()
    variables: Sequence[str] = ()
    options: Sequence[str] = ()


def container_words(container: Container, *, shell: bool = False) -> list[str]:
    """The whole command: the build, or a shell in its place.

    What runs there may be anybody's. It cannot write the scripts, which are to start it again from
    outside.
    """
    mounts = {HERE: f"{container.folder}:{HERE}:ro,Z"}
    mounts[f"{HERE}/cache"] = f"{container.folder}/cache:{HERE}/cache:Z"
    mounts[container.project_dir] = f"{container.folder}/project:{container.project_dir}:Z"
    mounts |= {folder: f"{folder}:{folder}:ro" for folder in container.folders}
    words = [*container.engine, "run", "--rm"]
    words += ["-it"] if shell else []
    for mount in mounts.values():
        words += ["-v", mount]
    for name in container.variables:
        words += ["-e", name]
    words += container.options
    script = [f"{HERE}/reproduce.sh", container.project_dir, *(["shell"] if shell else [])]
    if container.entrypoint:
        return [*words, "--entrypoint", "/bin/sh", container.image, *script]
    return [*words, container.image, "/bin/sh", *script]


def engine_script(words: Sequence[str]) -> str:
    """A file that starts the container."""
    return f"#!/bin/sh\nexec {shlex.join(words)}\n"
