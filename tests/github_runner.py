"""Runs a workflow as GitHub would: expressions, conditions, matrices, and each step in bash.

What actions do is done by stand-ins, which remember what they were given. Each job has a folder of
its own, as on a fresh machine. Stackyard is "installed" by a stand-in for ``python3 -m venv`` and
``pip``, whose ``stackyard`` is the real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from conftest import ROOT

__all__ = ["Job", "Ran", "Runner", "load", "nothing", "value_of"]

_TOKEN = re.compile(r"\s*(?:('(?:[^']|'')*')|(&&|\|\||==|!=|[!(),])|([A-Za-z_][\w.-]*)|(\d+))")
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_STATUS = re.compile(r"\b(?:success|failure|cancelled|always)\(")

#: A stand-in for Python that makes a "virtual environment" with the real command in it.
_PYTHON = """#!/bin/sh
if [ "$1 $2" != "-m venv" ]; then exec {python} "$@"; fi
mkdir -p "$3/bin"
cat > "$3/bin/python" <<'END'
#!/bin/sh
printf '%s\\n' "$*" >> "${{RUNNER_TEMP}}/installed"
END
cat > "$3/bin/stackyard" <<'END'
#!/bin/sh
PYTHONPATH={root} exec {python} -c 'import sys; sys.argv[0] = "stackyard"; from stackyard.main import main; main()' "$@"
END
chmod +x "$3/bin/python" "$3/bin/stackyard"
"""
_SUDO = """#!/bin/sh
printf '%s\\n' "$*" >> "${RUNNER_TEMP}/sudo"
"""


def load(path: Path) -> Any:
    data = yaml.safe_load(path.read_bytes())
    data["on"] = data.pop(True)  # YAML 1.1 takes `on` for a truth
    return data


# -- expressions ------------------------------------------------------------------------------


def value_of(text: str, contexts: Mapping[str, Any]) -> Any:
    """The value of an expression; functions are looked up among the contexts."""
    tokens = list(_tokens(text.strip()))
    value, rest = _either(tokens, contexts)
    assert not rest, text
    return value


Tokens = Sequence[tuple[str | None, ...]]


def _tokens(text: str) -> Iterator[tuple[str | None, ...]]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        assert match, text
        yield match.groups()
        place = match.end()


def _either(tokens: Tokens, contexts: Mapping[str, Any]) -> tuple[Any, Tokens]:
    value, tokens = _both(tokens, contexts)
    while tokens and tokens[0][1] == "||":
        other, tokens = _both(tokens[1:], contexts)
        value = value or other
    return value, tokens


def _both(tokens: Tokens, contexts: Mapping[str, Any]) -> tuple[Any, Tokens]:
    value, tokens = _compared(tokens, contexts)
    while tokens and tokens[0][1] == "&&":
        other, tokens = _compared(tokens[1:], contexts)
        value = value and other
    return value, tokens


def _compared(tokens: Tokens, contexts: Mapping[str, Any]) -> tuple[Any, Tokens]:
    value, tokens = _one(tokens, contexts)
    if tokens and tokens[0][1] in ("==", "!="):
        other, rest = _one(tokens[1:], contexts)
        return ((value or "") == (other or "")) is (tokens[0][1] == "=="), rest
    return value, tokens


def _one(tokens: Tokens, contexts: Mapping[str, Any]) -> tuple[Any, Tokens]:
    (text, sign, name, number), rest = tokens[0], tokens[1:]
    if sign == "!":
        value, rest = _one(rest, contexts)
        return not value, rest
    if sign == "(":
        value, rest = _either(rest, contexts)
        assert rest[0][1] == ")"
        return value, rest[1:]
    if text:
        return text[1:-1].replace("''", "'"), rest
    if number:
        return int(number), rest
    assert name, tokens
    if rest and rest[0][1] == "(":
        arguments, rest = [], rest[1:]
        while rest[0][1] != ")":
            value, rest = _either(rest, contexts)
            arguments.append(value)
            rest = rest[1:] if rest[0][1] == "," else rest
        return contexts[name](*arguments), rest[1:]
    value = contexts
    for part in name.split("."):
        assert isinstance(value, Mapping) or value is None, name
        value = value.get(part) if value else None
    return value, rest


def filled(text: str, contexts: Mapping[str, Any]) -> Any:
    """A scalar of the file; an expression alone keeps its type."""
    if match := _EXPRESSION.fullmatch(text.strip()):
        return value_of(match[1], contexts)
    return _EXPRESSION.sub(lambda found: shown(value_of(found[1], contexts)), text)


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


# -- running ----------------------------------------------------------------------------------


class Ran(NamedTuple):
    """A step that was run: its own part of the environment, and what it said on both outputs."""

    name: str
    env: Mapping[str, str]
    code: int
    out: str


class Job(NamedTuple):
    """One job of a matrix, or a job without one. ``uses``: inputs by the name of the action."""

    id: str
    name: str
    runs_on: str
    permissions: Mapping[str, str]
    workspace: Path
    temp: Path
    steps: list[Ran]
    uses: list[tuple[str, Mapping[str, str]]]

    @property
    def failed(self) -> bool:
        return any(step.code for step in self.steps)

    def said(self) -> str:
        return "".join(f"--- {step.name}: {step.code}\n{step.out}" for step in self.steps)

    def step(self, name: str) -> Ran:
        (found,) = (step for step in self.steps if step.name.startswith(name))
        return found


Action = Callable[[Job, Mapping[str, str]], None]


def nothing(_: Job, __: Mapping[str, str]) -> None:
    """An action that is only remembered."""


class Runner:
    """Runs workflows of one project; ``env`` are variables of the machine."""

    def __init__(self, folder: Path, project: Path, env: Mapping[str, str]) -> None:
        self.folder, self.project, self.env = folder, project, dict(env)
        self.jobs: list[Job] = []
        self.results: dict[str, str] = {}
        self.actions: dict[str, Action] = {
            "actions/checkout": self._check_out,
            "actions/upload-artifact": nothing,
        }
        self.secrets: dict[str, str] = {}
        self.protected = True  # the branch that it runs on
        programs = folder / "programs"
        programs.mkdir(parents=True)
        self.program("python3", _PYTHON.format(python=sys.executable, root=ROOT))
        self.program("sudo", _SUDO)

    def program(self, name: str, text: str) -> None:
        """A stand-in for a program, which comes before all others."""
        path = self.folder / "programs" / name
        path.write_text(text)
        path.chmod(0o755)

    def named(self, job: str) -> list[Job]:
        return [one for one in self.jobs if one.id == job]

    def run(self, path: Path, event: str, inputs: Mapping[str, Any] | None = None) -> None:
        """Run it to its end; ``jobs`` and ``results`` are then of this run."""
        data = load(path)
        assert event in data["on"], event
        self.jobs, self.results = [], {}
        needed: dict[str, Any] = {}
        for name, job in data["jobs"].items():
            needs = job.get("needs", [])
            names = [needs] if isinstance(needs, str) else needs
            contexts = self._contexts(event, inputs or {}, needed, names)
            outputs: dict[str, Any] = {}
            if self._is_wanted(job.get("if", ""), contexts):
                runs = [
                    self._job(name, data, job, {**contexts, "matrix": matrix}, outputs)
                    for matrix in self._matrices(job, contexts)
                ]
                self.results[name] = "failure" if any(one.failed for one in runs) else "success"
            else:
                self.results[name] = "skipped"
            needed[name] = {"result": self.results[name], "outputs": outputs}

    def _contexts(
        self, event: str, inputs: Mapping[str, Any], needed: Mapping[str, Any], names: Sequence[str]
    ) -> dict[str, Any]:
        good = all(needed[name]["result"] == "success" for name in names)
        bad = any(needed[name]["result"] == "failure" for name in names)
        return {
            "github": {
                "event_name": event,
                "actor": "octocat",
                "token": "ghs-recognisable",
                "run_id": 4711,
                "ref": "refs/heads/main",
                "ref_protected": self.protected and event != "pull_request",
                "event": {"repository": {"default_branch": "main"}},
            },
            "inputs": inputs,
            "needs": {name: needed[name] for name in names},
            "secrets": self.secrets,
            "strategy": {"job-index": 0},
            "success": lambda: good,
            "failure": lambda: bad,
            "cancelled": lambda: False,
            "fromJSON": json.loads,
        }

    @staticmethod
    def _is_wanted(condition: str, contexts: Mapping[str, Any]) -> bool:
        match = _EXPRESSION.fullmatch(condition.strip())
        text = match[1] if match else condition
        if not _STATUS.search(text):
            text = f"success() && ({text})" if text.strip() else "success()"
        return bool(value_of(text, contexts))

    @staticmethod
    def _matrices(job: Mapping[str, Any], contexts: Mapping[str, Any]) -> Sequence[Any]:
        matrix = job.get("strategy", {}).get("matrix")
        if matrix is None:
            return [{}]
        made = filled(matrix, contexts) if isinstance(matrix, str) else matrix
        assert set(made) == {"include"}
        return list(made["include"])

    def _job(
        self,
        name: str,
        data: Mapping[str, Any],
        job: Mapping[str, Any],
        contexts: dict[str, Any],
        outputs: dict[str, Any],
    ) -> Job:
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        made = Job(
            name,
            shown(filled(job["name"], contexts)),
            shown(filled(job["runs-on"], contexts)),
            job["permissions"],
            folder / "workspace",
            folder / "temp",
            [],
            [],
        )
        for path in (made.workspace, made.temp, folder / "home"):
            path.mkdir(parents=True)
        contexts["runner"] = {"temp": str(made.temp)}
        contexts["steps"] = {}
        self.jobs.append(made)
        for step in job["steps"]:
            contexts["success"] = lambda: not made.failed
            contexts["failure"] = lambda: made.failed
            if self._is_wanted(step.get("if", ""), contexts):
                self._step(made, data.get("env", {}), step, contexts)
        for key, text in job.get("outputs", {}).items():
            outputs[key] = filled(text, contexts)
        return made

    def _step(
        self, job: Job, env: Mapping[str, Any], step: Mapping[str, Any], contexts: dict[str, Any]
    ) -> None:
        if "uses" in step:
            inputs = {k: shown(filled(shown(v), contexts)) for k, v in step.get("with", {}).items()}
            action = step["uses"].partition("@")[0]
            job.uses.append((action, inputs))
            self.actions[action](job, inputs)
            return
        own = {
            k: shown(filled(shown(v), contexts)) for k, v in {**env, **step.get("env", {})}.items()
        }
        output, more = job.temp / "output", job.temp / "env"
        output.write_text("")
        job.temp.joinpath("env").touch()
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=job.workspace,
            env={
                **self.env,
                "PATH": f"{self.folder}/programs:{os.environ['PATH']}",
                "HOME": str(job.workspace.parent / "home"),
                "CI": "true",
                "GITHUB_ACTIONS": "true",
                "GITHUB_ACTOR": "octocat",
                "GITHUB_REF": "refs/heads/main",
                "GITHUB_REPOSITORY": "octocat/cache",
                "GITHUB_SERVER_URL": "https://github.com",
                "GITHUB_OUTPUT": str(output),
                "RUNNER_TEMP": str(job.temp),
                **dict(line.split("=", 1) for line in more.read_text().splitlines()),
                **own,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=900,
        )
        job.steps.append(Ran(step["name"], own, done.returncode, done.stdout))
        if "id" in step:
            said = dict(line.split("=", 1) for line in output.read_text().splitlines())
            contexts["steps"][step["id"]] = {"outputs": said}

    def _check_out(self, job: Job, inputs: Mapping[str, str]) -> None:
        assert inputs["persist-credentials"] == "false"
        for path in self._files():
            target = job.workspace / path.relative_to(self.project)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    def _files(self) -> Iterator[Path]:
        return (path for path in self.project.rglob("*") if path.is_file())
