"""What a registry wants to see before it answers: the header ``WWW-Authenticate``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Challenge", "parse_challenges"]

_LONGEST = 16_384  # characters
_WORD = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_STEP = re.compile(rf'({_WORD})(?:[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s,]*))?')


class Challenge(NamedTuple):
    """One way to prove who we are; scheme and names of parameters are in small letters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """The challenges of one header, or of several joined with commas (RFC 9110, 11.6.1).

    Registries differ in capitals, quotes and spaces, so whatever can be understood is taken and
    the rest is passed over.
    """
    found: list[tuple[str, dict[str, str]]] = []
    for match in _STEP.finditer(header[:_LONGEST]):
        name, value = match[1].lower(), match[2]
        if value is None:
            found.append((name, {}))
        elif found:
            found[-1][1].setdefault(name, _unquoted(value))
    return tuple(Challenge(scheme, parameters) for scheme, parameters in found)


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value
