"""``lock``: make a stack's lock with the pinned Spack, and see whether a lock is what it should be."""

from __future__ import annotations

import json
from typing import Any

from stackyard.edges import console
from stackyard.errors import ConfigError, LockError, StaleError
from stackyard.flow.locking import Made, Way, make_lock
from stackyard.flow.steps import PINS, Request, Work, load_work, open_project
from stackyard.lockdiff import shown_diff
from stackyard.pins import pin_troubles

__all__ = ["check_pins", "lock"]


def lock(  # noqa: PLR0913
    *,
    stack: str = "",
    lock: str = "",
    check: bool = False,
    verify: bool = False,
    spack: str = "",
    keep_config: bool = False,
    update: bool = False,
    as_json: bool = False,
) -> None:
    """Make the stack's lock; or check one against its manifest and pins, and its hashes."""
    project, way = open_project(), Way(spack, keep_config, update)
    if not check and not verify:
        _refuse_other(lock)
        _tell(make_lock(project, stack, way), as_json=as_json)
        return
    if any(way):
        raise ConfigError(
            "--spack, --keep-config and --update say how a lock is made",
            where="lock",
            hint="leave --check and --verify away, or run them afterwards",
        )
    work = load_work(project, Request(stack=stack, lock=lock))
    result: dict[str, Any] = {"stack": work.stack.name, "lock": work.lock.where}
    if check:
        result["roots"] = sum(root.hash in work.roots for root in work.lock.roots)
        result["pins"] = check_pins(work)
        console.note(f"{work.lock.where} answers {work.stack.where}: {result['roots']} roots")
    if verify:
        result |= _verify(work)
    if as_json:
        console.out(json.dumps(result, indent=2))


def _refuse_other(lock: str) -> None:
    if lock:
        raise ConfigError(
            "a new lock lies beside its manifest",
            where="--lock",
            hint="leave it away; with --check or --verify it names a lock to look at",
        )


def _tell(made: Made, *, as_json: bool) -> None:
    diff, where = made.diff, made.lock.where
    if as_json:
        result = {
            "stack": made.stack,
            "lock": where,
            "specs": len(made.lock.specs),
            "pins": made.pins.as_dict() if made.pins else None,
            "diff": diff.as_dict() if diff else None,
        }
        console.out(json.dumps(result, indent=2))
    elif diff is None:
        console.out(f"{where}: new, {len(made.lock.specs)} specs")
    else:
        console.out(f"{where}: {'changed' if diff else 'the same specs as before'}")
        for line in shown_diff(diff) if diff else ():
            console.out(console.printable(f"  {line}"))


def check_pins(work: Work) -> dict[str, dict[str, str]] | None:
    """The pins of the lock; None without any.

    Raises StaleError where lock, pins, manifest and settings do not speak of the same.
    """
    if work.pins is None:
        return None
    env, source = work.project.env, work.settings.spack
    troubles = pin_troubles(work.pins, env, source, work.stack.repos, work.lock.spack_commit)
    if troubles:
        raise StaleError(
            "; ".join(troubles),
            where=work.project.shown(work.folder / PINS),
            hint=f"run: invoke lock --stack {work.stack.name}",
        )
    return work.pins.as_dict()


def _verify(work: Work) -> dict[str, Any]:
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
