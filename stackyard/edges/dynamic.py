"""Ask the service of a ``dynamic-mapping`` for attributes of each job.

Follows Spack 1.1 (``generate_ir`` in ``ci/common.py``): whatever fails only warns, since a pipeline
must not hang on a hint about resources. Other than Spack we ask in parallel and end in bounded
time.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from stackyard.edges.api import ask_json
from stackyard.edges.parallel import parallel_map
from stackyard.errors import StackError, StoreError
from stackyard.stack import check_attributes

__all__ = ["DynamicService"]

_EACH_S = 10.0
_ALL_S = 120.0


class DynamicService:
    """Answers ``stackyard.attributes.DynamicMapping``.

    ``skip`` is ``SPACK_CI_SKIP_DYNAMIC_MAPPING``: a regular expression on a mapping's name.
    ``expand`` puts environment variables into header values (None: Spack's way, as they are).
    """

    def __init__(
        self,
        *,
        skip: str,
        warn: Callable[[str], None],
        expand: Callable[[str], str] | None = None,
        total_s: float = _ALL_S,
    ) -> None:
        self._skip = skip
        self._warn = warn
        self._expand = expand
        self._total_s = total_s

    def __call__(
        self, mapping: Mapping[str, Any], queries: Sequence[str]
    ) -> Sequence[Mapping[str, Any] | None]:
        name = str(mapping.get("name") or "")
        if name and self._skip and self._skipped(name):
            return [None] * len(queries)
        end = time.monotonic() + self._total_s
        headers = {
            str(key): self._expand(value) if self._expand else value
            for key, value in (mapping.get("header") or {}).items()
        }
        timeout_s = min(float(mapping.get("timeout") or _EACH_S), self._total_s)
        try:
            url = urlsplit(mapping["endpoint"])
        except ValueError as error:
            raise StackError(
                f"{mapping['endpoint']!r} is no URL: {error}",
                where="spack.ci.pipeline-gen: dynamic-mapping.endpoint",
            ) from None

        def ask(query: str) -> Any:
            left = end - time.monotonic()
            if left <= 0:
                return StoreError(f"not asked: {self._total_s:.0f} s had passed")
            try:
                return ask_json(
                    url._replace(query=query).geturl(),
                    headers=headers,
                    timeout_s=min(timeout_s, left),
                )
            except StoreError as error:
                return error

        answers = list(parallel_map(ask, queries, workers=16))
        failed = [answer for answer in answers if isinstance(answer, StoreError)]
        if failed:
            self._warn(
                f"dynamic mapping {name or url.netloc}: no answer for {len(failed)} of "
                f"{len(queries)} jobs, they go on without ({failed[0].message})"
            )
        return [self._clean(mapping, answer, name) for answer in answers]

    def _skipped(self, name: str) -> bool:
        try:
            return re.match(self._skip, name) is not None
        except re.error as error:
            self._warn(f"SPACK_CI_SKIP_DYNAMIC_MAPPING is no regular expression: {error}")
            return False

    def _clean(
        self, mapping: Mapping[str, Any], answer: Any, name: str
    ) -> Mapping[str, Any] | None:
        """The answer's keys that are wanted: not ignored, and allowed if there is such a list."""
        if isinstance(answer, StoreError):
            return None
        given = answer
        if isinstance(answer, dict):  # null takes an attribute away, whatever its shape
            given = {key: value for key, value in answer.items() if value is not None}
        try:
            check_attributes(given, f"dynamic mapping {name}".rstrip())
        except StackError as error:
            self._warn(f"{error.where}: {error.message}: no job could take it, ignored")
            return None
        if "\\u0000" in json.dumps(answer):  # the marks of stackyard.attributes are made of it
            self._warn(f"dynamic mapping {name}: an answer with NUL in it, ignored")
            return None
        required = set(mapping.get("require") or ())
        allowed = set(mapping.get("allow") or ()) | required
        ignored = set(mapping.get("ignore") or ())
        clean = {
            key: value
            for key, value in answer.items()
            if key not in ignored and (not allowed or key in allowed)
        }
        if missing := sorted(required - clean.keys()):
            self._warn(f"dynamic mapping {name}: the answer lacks {', '.join(missing)}")
        return clean
