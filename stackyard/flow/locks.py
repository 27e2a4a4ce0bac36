"""``lock``: whether a lock answers its manifest, and whether its hashes are true."""

from __future__ import annotations

import json
from typing import Any

from stackyard.edges import console
from stackyard.errors import ConfigError
from stackyard.flow.steps import Request, Work, load_work, open_project

__all__ = ["lock"]


def lock(
    *,
    stack: str = "",
    lock: str = "",
    check: bool = False,
    verify: bool = False,
    as_json: bool = False,
) -> None:
    """Check a lock against its manifest, and its hashes against themselves."""
    if not check and not verify:
        raise ConfigError(
            "this version checks locks, it does not make them",
            where="lock",
            hint="add --check or --verify; make one with spack concretize",
        )
    work = load_work(open_project(), Request(stack=stack, lock=lock))
    result: dict[str, Any] = {"stack": work.stack.name, "lock": work.lock.where}
    if check:
        result["roots"] = sum(root.hash in work.roots for root in work.lock.roots)
        console.note(f"{work.lock.where} answers {work.stack.where}: {result['roots']} roots")
    if verify:
        result |= _verify(work)
    if as_json:
        console.out(json.dumps(result, indent=2))


def _verify(work: Work) -> dict[str, Any]:
    from stackyard.errors import LockError
    from stackyard.hashes import Verdict, verify_hashes

    verdicts = verify_hashes(work.lock)
    counts = {kind.value: sum(v is kind for v in verdicts.values()) for kind in Verdict}
    wrong = [key for key, verdict in verdicts.items() if verdict is Verdict.FALSE]
    if wrong:
        names = ", ".join(f"{work.lock.specs[key].name}/{key[:7]}" for key in wrong[:10])
        raise LockError(
            f"{len(wrong)} of {len(verdicts)} hashes are not those of their nodes: {names}",
            where=f"{work.lock.where}: concrete_specs",
            hint="the file was edited: restore it, or concretize again",
        )
    unknown = f", {counts['unknown']} cannot be recomputed" if counts["unknown"] else ""
    console.note(f"{counts['true']} of {len(verdicts)} hashes are true{unknown}")
    return {"hashes": counts}
