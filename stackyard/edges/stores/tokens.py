"""Turn a registry's challenge into the header that it wants: a token for one purpose, or Basic.

After the token specification of ``distribution`` (GET, anonymous or with user and password) and
its OAuth2 form (POST of an identity token), which Azure's registry needs.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from threading import Lock
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from stackyard.challenge import Challenge, parse_challenges
from stackyard.edges.settings import conceal
from stackyard.edges.stores.logins import Login
from stackyard.edges.stores.store import public_url
from stackyard.errors import CorruptError, DeniedError, UnreachableError
from stackyard.oci import Reference

__all__ = ["Scopes", "Tokens", "is_loopback"]

#: What a request needs, in the registry's words: ``repository:NAME:pull``.
Scopes = tuple[str, ...]

_CLIENT = "stackyard"
#: A token without a term lives so long by the specification.
_TERM_S = 60.0
#: So much of its term a token is used: what is sent must arrive in time.
_USED = 0.8


class Exchange(Protocol):
    """Ask another service; gives status and body. Raises UnreachableError."""

    def __call__(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        form: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]: ...


class _Held(NamedTuple):
    header: str
    until: float  # by the clock


class Tokens:
    """The headers of one repository, by what they are good for. For many threads at once."""

    def __init__(
        self,
        reference: Reference,
        login: Callable[[], Login],
        exchange: Exchange,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reference = reference
        self._login = login
        self._exchange = exchange
        self._clock = clock
        self._held: dict[Scopes, _Held] = {}
        self._lock = Lock()
        self._is_identity = False  # the login's token is no bearer token: the registry refused it

    def header(self, scopes: Scopes) -> str:
        """The value of ``Authorization`` to begin with; empty if nothing is known to be wanted."""
        held = self._held.get(scopes)
        return held.header if held and self._clock() < held.until else ""

    def renew(self, scopes: Scopes, challenge: str, refused: str) -> str:
        """Another value, after ``refused`` was answered with this challenge; empty if none helps.

        Raises DeniedError, UnreachableError or CorruptError for a token service that does not
        play its part.
        """
        with self._lock:
            known = self.header(scopes)
            if known and known != refused:  # another thread was faster
                return known
            held = self._answer(scopes, parse_challenges(challenge), refused)
            if held is None or held.header == refused:
                return ""
            self._held[scopes] = held
            return held.header

    def _answer(
        self, scopes: Scopes, challenges: Sequence[Challenge], refused: str
    ) -> _Held | None:
        login = self._login()
        direct = f"Bearer {login.token}" if login.token else ""
        self._is_identity |= bool(direct) and refused == direct
        schemes = {challenge.scheme: challenge for challenge in reversed(challenges)}
        if direct and not self._is_identity:
            return _Held(direct, float("inf"))
        if (bearer := schemes.get("bearer")) and bearer.parameters.get("realm"):
            return self._bearer(scopes, bearer, login)
        if "basic" in schemes and login.password:
            return _Held(_basic(login), float("inf"))
        return None

    def _bearer(self, scopes: Scopes, challenge: Challenge, login: Login) -> _Held | None:
        realm = self._realm(challenge.parameters["realm"])
        where = public_url(realm.geturl())
        wanted = _wanted(scopes, challenge.parameters.get("scope", ""))
        status, body = self._ask(realm, challenge.parameters.get("service", ""), wanted, login)
        if status in (401, 403) and not login:
            return None
        if status in (400, 401, 403):
            raise DeniedError(
                f"the token service refuses what {login.source} says ({status})",
                where=where,
                hint="a token may have run out, or lack the rights for this repository",
            )
        if status != 200:
            raise UnreachableError(f"the token service answers {status}", where=where)
        return self._held_from(body, where)

    def _realm(self, text: str) -> SplitResult:
        """The token service. Our secrets go there, so it must be one that nobody can overhear."""
        try:
            realm = urlsplit(text)
            host = realm.hostname or ""
            plain = self._reference.scheme == "http" or is_loopback(host)
            good = bool(host) and (realm.scheme == "https" or (realm.scheme == "http" and plain))
        except ValueError:
            good = False
        if not good:
            raise DeniedError(
                f"the registry sends us for a token to {public_url(text)[:200]!r}",
                where=self._reference.url,
                hint="only https is safe for this",
            )
        return realm

    def _ask(
        self, realm: SplitResult, service: str, wanted: Scopes, login: Login
    ) -> tuple[int, bytes]:
        if login.token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": login.token,
                "service": service,
                "client_id": _CLIENT,
                "scope": " ".join(wanted),
            }
            return self._exchange("POST", realm.geturl(), headers={}, form=form)
        query = [
            *parse_qsl(realm.query),
            *([("service", service)] if service else []),
            *(("scope", scope) for scope in wanted),
            ("client_id", _CLIENT),
        ]
        headers = {"Authorization": _basic(login)} if login else {}
        url = realm._replace(query=urlencode(query), fragment="").geturl()
        return self._exchange("GET", url, headers=headers)

    def _held_from(self, body: bytes, where: str) -> _Held:
        try:
            answer: Any = json.loads(body)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, RecursionError, AttributeError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise CorruptError("the token service gives no token", where=where)
        conceal(token)
        term = answer.get("expires_in")
        if not isinstance(term, (int, float)) or isinstance(term, bool) or term <= 0:
            term = _TERM_S
        return _Held(f"Bearer {token}", self._clock() + _USED * term)


def _wanted(scopes: Scopes, given: str) -> Scopes:
    """What the challenge asks for, and what we know to need: some registries name too little."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for scope in (*given.split(), *scopes):
        thing, _, actions = scope.rpartition(":")
        found.setdefault((thing, scope if not thing else ""), {}).update(
            dict.fromkeys(actions.split(","))
        )
    return tuple(
        whole or f"{thing}:{','.join(actions)}" for (thing, whole), actions in found.items()
    )


def _basic(login: Login) -> str:
    return f"Basic {b64encode(f'{login.user}:{login.password}'.encode()).decode()}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
