"""Child pipelines beside those that the real ``spack ci generate`` wrote for the same stacks.

A case is a folder of ``data/oracle`` or ``data/oracle-more``: ``spack.yaml`` and what it includes;
``stack``: the lock's stack, or its file seen from the case or from ``data``; ``flags`` and
``env.json``: how ``generate`` was called; ``pipeline.yml``, and where there are any ``copy.json``
and ``concrete.yaml``: what Spack 1.1 wrote; ``dynamic.json``: what the service of a dynamic mapping
answers, and the queries that Spack asked it. ``/project``, ``/outside``, ``file:///mirror/`` and
``http://dynamic.test`` stand for places that each run has anew.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from pipelines import differences, jobs_of, load, plain

from stackyard.document import parse_yaml
from stackyard.flow.generate import generate
from stackyard.flow.steps import Request

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).resolve().parent / "data"
CASES = [case for name in ("oracle", "oracle-more") for case in sorted((DATA / name).iterdir())]

#: Files of a case that are not the stack's own.
ABOUT = {"stack", "flags", "env.json", "dynamic.json", "pipeline.yml", "copy.json", "concrete.yaml"}

OUTPUT = "jobs_scratch_dir/pipeline.yml"


class Run:
    """One case, laid out as a project in a folder of its own."""

    def __init__(self, case: Path, base: Path, service: str) -> None:
        self.case = case
        self.root = base / "project"
        self.folder = self.root / "stacks" / case.name
        self._places = {
            "file:///mirror/": f"{(DATA / 'mirrors').as_uri()}/",
            "/project": str(self.root),
            "/outside": str(base / "else" / "where"),
            "http://dynamic.test": service,
        }
        self.env = {k: self.here(v) for k, v in json.loads(self.text("env.json")).items()}
        self.flags = self.here(self.text("flags")).split()
        self._lay_out()

    def text(self, name: str) -> str:
        return (self.case / name).read_text(encoding="utf-8")

    def here(self, text: str) -> str:
        """The text with the places of this run."""
        for name, place in self._places.items():
            text = text.replace(name, place)
        return text

    def _lay_out(self) -> None:
        for file in self.case.rglob("*"):
            name = file.relative_to(self.case)
            if file.is_file() and str(name) not in ABOUT:
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(self.here(file.read_text(encoding="utf-8")), encoding="utf-8")
        (self.root / "invoke.yaml").write_text("stackyard: {}\n", encoding="utf-8")
        lock = self.text("stack").strip()
        places = (self.case / lock, DATA / lock, ROOT / "stacks" / lock / "spack.lock")
        found = next(place for place in places if place.is_file())
        (self.folder / "spack.lock").write_bytes(found.read_bytes())

    def values(self, flag: str) -> list[str]:
        return [
            after for name, after in zip(self.flags, self.flags[1:], strict=False) if name == flag
        ]

    @property
    def artifacts_root(self) -> str:
        return next(iter(self.values("--artifacts-root")), "")

    @property
    def artifacts(self) -> Path:
        return Path(os.path.normpath(self.root / (self.artifacts_root or "jobs_scratch_dir")))

    def generate(self, *, check: bool = False) -> None:
        generate(
            Request(
                stack=self.case.name,
                no_prune="--no-prune" in self.flags,
                check_index_only="--check-index-only" in self.flags,
            ),
            output=OUTPUT,
            artifacts_root=self.artifacts_root,
            forward=self.values("--forward-variable"),
            check=check,
        )

    def written(self) -> dict[str, bytes]:
        """All files but those of the stack."""
        return {
            str(path): path.read_bytes()
            for path in self.root.parent.rglob("*")
            if path.is_file() and not path.is_relative_to(self.folder)
        }


@contextmanager
def serving(
    answers: Mapping[str, Any], header: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """A service for dynamic mappings: its URL, and the queries that it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            query = unquote(urlsplit(self.path).query)
            asked.append(query)
            name = query.removeprefix("spec=").partition("@")[0]
            answer = answers.get(name, answers["*"])
            if any(self.headers.get(key) != value for key, value in header.items()):
                answer = 403
            self.send_response(answer if isinstance(answer, int) else 200)
            self.end_headers()
            if not isinstance(answer, int):
                text = answer if isinstance(answer, str) else json.dumps(answer)
                self.wfile.write(text.encode())

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def exact(document: Mapping[str, Any]) -> dict[str, str]:
    """Each job's attributes as text, so that ``1``, ``1.0`` and ``true`` differ."""
    return {
        name: json.dumps({**plain(job), "variables": job.get("variables")}, sort_keys=True)
        for name, job in jobs_of(document).items()
    }


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_pipeline_equals_spacks(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamic = json.loads((case / "dynamic.json").read_text(encoding="utf-8")) if _asks(case) else {}
    with serving(dynamic.get("answers", {}), dynamic.get("header", {})) as (url, asked):
        run = Run(case, tmp_path, url)
        monkeypatch.chdir(run.root)
        for name, value in run.env.items():
            monkeypatch.setenv(name, value)
        run.generate()
        assert sorted(asked) == dynamic.get("queries", [])
        first = run.written()
        _compare(run)

        run.generate()
        assert run.written() == first
        run.generate(check=True)


def _asks(case: Path) -> bool:
    return (case / "dynamic.json").is_file()


def _compare(run: Run) -> None:
    text = (run.root / OUTPUT).read_text(encoding="utf-8")
    ours, spacks = load(text), parse_yaml(run.here(run.text("pipeline.yml")))
    assert ours == parse_yaml(text), "YAML 1.1 and 1.2 read something else"
    assert differences(ours, spacks) == []
    assert exact(ours) == exact(spacks)
    assert ours.get("stages") == spacks.get("stages")
    assert ours.get("variables", {}).keys() == spacks.get("variables", {}).keys()

    copies = sorted(run.artifacts.glob("specs_to_copy/*"))
    stack = run.env.get("SPACK_CI_STACK_NAME") or "rebuilt"
    expected = [f"copy_{stack}_specs.json"] if (run.case / "copy.json").is_file() else []
    assert [path.name for path in copies] == expected
    for path in copies:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        assert manifest == json.loads(run.here(run.text("copy.json")))

    concrete = run.artifacts / "concrete_environment"
    manifest = parse_yaml((concrete / "spack.yaml").read_text(encoding="utf-8"))
    if (run.case / "concrete.yaml").is_file():
        assert manifest == parse_yaml(run.here(run.text("concrete.yaml")))
        _check_includes(manifest, concrete)
    else:
        assert manifest == parse_yaml((run.folder / "spack.yaml").read_text(encoding="utf-8"))
    assert (concrete / "spack.lock").read_bytes() == (run.folder / "spack.lock").read_bytes()


def _check_includes(manifest: Mapping[str, Any], folder: Path) -> None:
    for entry in manifest["spack"]["include"]:
        if isinstance(entry, str):
            assert (folder / entry).exists(), entry
        elif not entry.get("optional"):
            assert (folder / entry["path"]).exists(), entry
