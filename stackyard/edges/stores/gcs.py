"""A mirror in a bucket of Google Cloud Storage, through its XML API."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.message import Message
from threading import Lock
from typing import TYPE_CHECKING

from stackyard.edges.settings import Environment, conceal
from stackyard.edges.stores.bucket import Bucket, Party, split_url
from stackyard.edges.stores.s3 import S3Store
from stackyard.edges.stores.service import Request, origin_of
from stackyard.edges.stores.store import ANONYMOUS, Access, Store, public_url
from stackyard.errors import DeniedError, UnreachableError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

__all__ = ["SERVICE", "GcsStore", "open_gs"]

SERVICE = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

_IDENTIFY = (
    "no credentials were found: set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth "
    "application-default login"
)
_ALLOW = "the account needs the role Storage Object Viewer, to write Storage Object User"


def open_gs(
    url: str,
    access: Access = ANONYMOUS,
    *,
    timeout_s: float = 20.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Store:
    """The store behind a gs URL: with an HMAC key, Google's bucket through its S3 interface."""
    if not (access.id and access.secret):
        return GcsStore(url, access, timeout_s=timeout_s, sleep=sleep)
    service = access._replace(endpoint_url=access.endpoint_url or SERVICE)
    return S3Store(url, service, timeout_s=timeout_s, sleep=sleep)


class _Account(Party):
    """Who we are for Google, found out when it is first needed."""

    def __init__(self, url: str, origin: str, root: str) -> None:
        self._url = url
        self._place = origin, root
        self._credentials: Credentials | None = None
        self._looked = False
        self._lock = Lock()

    def address(self) -> tuple[str, str]:
        return self._place

    def signed(
        self,
        request: Request,  # noqa: ARG002 - a token is good for all requests
        path: str,  # noqa: ARG002
        query: str,  # noqa: ARG002
        headers: dict[str, str],
    ) -> dict[str, str]:
        # Google would unpack what is stored with a Content-Encoding, unless we take that.
        sent = {**headers, "Accept-Encoding": "gzip"}
        token = self._token()
        return {**sent, "Authorization": f"Bearer {token}"} if token else sent

    def _token(self) -> str:
        with self._lock:
            if not self._looked:
                self._credentials, self._looked = _default(), True
            if self._credentials is None:
                return ""
            if not self._credentials.valid:
                _renew(self._credentials, self._url)
            return str(self._credentials.token)

    def who(self) -> str:
        return _IDENTIFY if self._credentials is None else _ALLOW

    def condition(self, version: str | None) -> dict[str, str]:
        if version is None:
            return {"x-goog-if-generation-match": "0"}
        # Google refuses a condition that is no number; no file ever had generation 1.
        return {"x-goog-if-generation-match": version if version.isdecimal() else "1"}

    def version(self, headers: Message) -> str:
        return headers.get("x-goog-generation", "")


class GcsStore(Bucket):
    """Keys below ``gs://bucket/prefix``, with Google's application default credentials.

    Those are what google-auth finds: the file that ``GOOGLE_APPLICATION_CREDENTIALS`` names
    (service accounts, identities of other clouds and of CI), gcloud's login, the account of the
    machine; else nobody, for public buckets. Conditions are on generations, and always hold.
    """

    def __init__(
        self,
        url: str,
        access: Access = ANONYMOUS,
        *,
        timeout_s: float = 20.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        env = Environment.snapshot()
        given, what = access.endpoint_url, "the mirror's endpoint_url"
        if not given:
            given, what = env.get("STORAGE_EMULATOR_HOST", ""), "$STORAGE_EMULATOR_HOST"
        origin, path = origin_of(given or SERVICE, what)
        account = _Account(public_url(url), origin, f"{path}/{split_url(url)[0]}")
        super().__init__(url, account, env, timeout_s=timeout_s, sleep=sleep)


def _default() -> Credentials | None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        found, _ = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError:
        return None
    return found


def _renew(credentials: Credentials, where: str) -> None:
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.auth.transport.requests import Request as Asking

    try:
        credentials.refresh(Asking())  # type: ignore[no-untyped-call]
    except TransportError:
        raise UnreachableError(
            "nobody answers where Google's tokens are given", where=where, hint="try again"
        ) from None
    except GoogleAuthError as error:
        raise DeniedError(
            f"Google gives no token for these credentials ({type(error).__name__})",
            where=where,
            hint="log in again: gcloud auth application-default login; or look at the file that "
            "GOOGLE_APPLICATION_CREDENTIALS names",
        ) from None
    conceal(str(credentials.token))
