"""Ask a web service for JSON, with bounds on time and size."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from stackyard import __version__
from stackyard.edges.stores.store import public_url
from stackyard.errors import CorruptError, DeniedError, NotFoundError, StoreError, UnreachableError
from stackyard.url import split_url

__all__ = ["ask_json"]

_LARGEST = 1_000_000
_ANSWERS: Mapping[int, type[StoreError]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    410: NotFoundError,
}


def ask_json(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: object = None,
    timeout_s: float = 20.0,
) -> Any:
    """GET, or POST ``body`` as JSON, and return the parsed answer.

    Raises StoreError: NotFoundError, DeniedError, UnreachableError, or CorruptError where the
    answer is not JSON. Neither headers nor the URL's secrets appear in it.
    """
    where = public_url(url)
    if split_url(url).scheme not in ("http", "https"):
        raise StoreError("only http and https can be asked", where=where)
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "User-Agent": f"stackyard/{__version__}",
            **({"Content-Type": "application/json"} if body is not None else {}),
            **(headers or {}),
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
            data = answer.read(_LARGEST + 1)
    except urllib.error.HTTPError as error:
        error.close()
        kind = _ANSWERS.get(error.code, UnreachableError)
        raise kind(f"the service answered {error.code} {error.reason}", where=where) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(f"no answer: {reason}", where=where) from None
    if len(data) > _LARGEST:
        raise CorruptError(f"the answer has more than {_LARGEST:,} bytes", where=where)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"the answer is not JSON: {error}", where=where) from None
