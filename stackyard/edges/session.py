"""Connections of ``requests`` to a service: whom they trust, and what went wrong with them.

Redirects are left to the caller, so that nothing of ours goes to another host than it should.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
import requests.adapters
import requests.auth
import urllib3.exceptions

from stackyard import __version__

__all__ = ["FAILURES", "Authorization", "failure", "not_sent", "open_session"]

_THREADS = 64
#: Bytes of a body that are sent with one call.
_BLOCK = 2**18

#: What a request, or reading its answer, may raise.
FAILURES = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class Authorization(requests.auth.AuthBase):
    """The header, and nothing out of anybody's ``.netrc``, which would take its place."""

    def __init__(self, header: str) -> None:
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._header:
            request.headers["Authorization"] = self._header
        return request


class _Adapter(requests.adapters.HTTPAdapter):
    """Trusts the certificates that this machine trusts, as our other stores and Spack do."""

    def __init__(self) -> None:
        self._trust = ssl.create_default_context()
        super().__init__(pool_maxsize=_THREADS)

    def init_poolmanager(self, *args: Any, **more: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._trust, blocksize=_BLOCK, **more)

    def proxy_manager_for(self, proxy: str, **more: Any) -> Any:
        own: dict[str, Any] = {"ssl_context": self._trust, "blocksize": _BLOCK}
        return super().proxy_manager_for(proxy, **own, **more)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        if verify is True:
            conn.cert_reqs = "CERT_REQUIRED"
        else:  # a file that REQUESTS_CA_BUNDLE names
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]


class _Session(requests.Session):
    """Looks at no redirect: that would read all that comes with it, and stumble over odd URLs."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, whatever ``resp`` says."""


def open_session() -> requests.Session:
    """A session that keeps no cookies and follows no redirect; give it an ``Authorization``."""
    session = _Session()
    session.headers.update(
        {"User-Agent": f"stackyard/{__version__}", "Accept-Encoding": "identity"}
    )
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = _Adapter()
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    return session


def failure(error: BaseException, timeout_s: float) -> tuple[str, bool]:
    """What went wrong, for people; and whether it may go better the next time."""
    found = list(_causes(error))
    for cause in found:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}", False
        if isinstance(cause, requests.exceptions.InvalidURL):
            return "not an http(s) URL with a host", False
    for cause in found:  # most of what is wrapped around it is an OSError too, without a text
        if isinstance(cause, OSError) and cause.strerror:
            return f"no connection: {cause.strerror}", True
    kinds = (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError)
    if any(isinstance(cause, kinds) for cause in found):
        return f"no answer within {timeout_s:g} s", True
    if any(isinstance(cause, urllib3.exceptions.IncompleteRead) for cause in found):
        return "the answer is cut off", True
    return f"no connection: {type(found[-1]).__name__}", True


def not_sent(error: BaseException) -> bool:
    """Whether there was no connection at all, so that nothing of a request can have arrived."""
    kinds = (requests.ConnectTimeout, urllib3.exceptions.NewConnectionError)
    return any(isinstance(cause, kinds) for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps, the innermost last: libraries hide the reason in many places."""
    seen: list[BaseException] = [error]
    for one in seen:
        yield one
        inner = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
        seen += [i for i in inner if isinstance(i, BaseException) and i not in seen]
