"""Recompute DAG hashes, to see whether a lock was edited or damaged.

Follows Spack 1.1 (``spec_hash`` in ``spec.py``): base32 of the SHA-1 of the node as compact JSON,
in its own key order, without its ``hash``; dependencies count through their hashes. The last seven
characters of a spliced spec are those of the spec that it was spliced from.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from stackyard.lock import Lock, Spec

__all__ = ["Verdict", "verify_hash", "verify_hashes"]


class Verdict(enum.Enum):
    TRUE = "true"
    FALSE = "false"
    #: Written by an older Spack and carried over: the text that was hashed is not in the lock.
    UNKNOWN = "unknown"


def verify_hashes(lock: Lock) -> Mapping[str, Verdict]:
    """A verdict for every node, in the lock's order."""
    return {key: verify_hash(lock.specs[key]) for key in lock.order}


def verify_hash(spec: Spec) -> Verdict:
    """Whether a node is what its hash says."""
    node = {key: value for key, value in spec.node.items() if key != "hash"}
    candidates = [node]
    if spec.external:
        # Spack 1.x hashes an external before it gives it a namespace.
        candidates.append({key: value for key, value in node.items() if key != "namespace"})
    for candidate in candidates:
        digest = _hash(candidate)
        if spec.build_spec:
            digest = digest[:-7] + spec.build_spec[-7:]
        if digest == spec.hash:
            return Verdict.TRUE
    return Verdict.UNKNOWN if _carried_over(spec) else Verdict.FALSE


def _carried_over(spec: Spec) -> bool:
    return spec.format < 5 and "annotations" in spec.node


def _hash(node: Mapping[str, Any]) -> str:
    text = json.dumps(node, separators=(",", ":"))
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).digest()
    return base64.b32encode(digest).decode().lower()
