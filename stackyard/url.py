"""URLs that people, settings and servers give: anything may stand there."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

__all__ = ["split_url"]

_NOTHING = SplitResult("", "", "", "", "")


def split_url(url: str) -> SplitResult:
    """The URL in parts; only empty ones, where it cannot be one or has a port that is none."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # whose message may show a password
        return _NOTHING
    return parts
