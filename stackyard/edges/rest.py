"""Ask the REST API of a service: JSON in and out, page by page, and again where it is busy.

What GitLab and GitHub have in common. Redirects are followed here, so that no token goes to
another host, and never from https to http.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urljoin

import requests

from stackyard.edges.session import FAILURES, Authorization, failure, not_sent, open_session
from stackyard.edges.stores.store import PIECE_BYTES, public_url
from stackyard.edges.stores.web import retry_after
from stackyard.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StackyardError,
    StoreError,
    UnreachableError,
)
from stackyard.url import split_url

__all__ = ["LONGEST_WAIT_S", "TRIES", "RefusedError", "Rest", "said"]

TRIES = 5
#: A service that wants us to wait longer is told of, not waited for.
LONGEST_WAIT_S = 90.0
_REDIRECTS = 5
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({429, 500, 502, 503, 504})
#: Answered before anything was taken, so that a POST may be sent again.
_NOT_TAKEN = frozenset({429, 503})
_LARGEST_JSON = 32 * 2**20
_LARGEST_REFUSAL = 2**16
_MOST_PAGES = 10_000
_KINDS: Mapping[int, type[StoreError]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: NotFoundError,
}

Clean = Callable[[str], str]


class RefusedError(StoreError):
    """The service understood who asks and will not do it; ``status`` is HTTP's: 400, 405, 422."""

    def __init__(self, message: str, *, status: int, where: str = "", hint: str = "") -> None:
        super().__init__(message, where=where, hint=hint)
        self.status = status


class _Asked(NamedTuple):
    """A request. ``careful``: what may have been taken is not sent again."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes | None
    careful: bool

    @property
    def reading(self) -> bool:
        return self.method == "GET"


class _Again(Exception):  # noqa: N818 - it is no error, but a reason to try again
    """A try brought nothing: ``problem`` for people, and seconds that the service wants."""

    def __init__(self, problem: str, *, worth: bool, wait_s: float = 0.0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.worth = worth
        self.wait_s = wait_s


class Rest:
    """A service whose API begins at ``root``. Many threads may ask at once.

    ``headers`` go to the service itself and nowhere else; ``secrets`` are taken out of what it
    says. ``name`` is for people: ``GitLab``.
    """

    name = "the service"
    example = "https://gitlab.com"

    def __init__(  # noqa: PLR0913 - passed by name
        self,
        root: str,
        *,
        headers: Mapping[str, str],
        secrets: tuple[str, ...] = (),
        timeout_s: float = 30,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.root = root.rstrip("/")
        parts = split_url(self.root)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise StoreError(
                f"not the http(s) URL of {self.name}",
                where=public_url(root),
                hint=f"for example {self.example}; tokens come from the environment",
            )
        if not all(text.isascii() and text.isprintable() for text in headers.values()):
            # requests would refuse it as well, and show it.
            raise StoreError(
                f"the token for {self.name} has characters that no token has",
                where=public_url(root),
                hint="is there a line break in the variable, or something else than the token?",
            )
        self._home = _origin(self.root)
        self._headers = dict(headers)
        self._secrets = tuple(filter(None, secrets))
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._clock = clock
        self._session = open_session()

    def get(self, path: str, **params: object) -> Any:
        """The parsed answer. ``path`` begins with ``/`` below the API's root; its parts are quoted.

        Raises StoreError or one of its kinds; RefusedError has the status.
        """
        return self._json(self._asked("GET", path, params))[0]

    def pages(self, path: str, **params: object) -> Iterator[Any]:
        """Each element of a list that comes in pages of 100."""
        query: dict[str, object] = {"per_page": 100, **params}
        for _ in range(_MOST_PAGES):
            items, headers = self._json(self._asked("GET", path, query))
            if not isinstance(items, list):
                raise CorruptError(f"{self.name} answers no list", where=self._where(path))
            yield from items
            following = self._next(headers, path)
            if following is None or following == query:
                return
            query = following
        raise CorruptError(f"there is no end of pages after {_MOST_PAGES}", where=self._where(path))

    def post(self, path: str, data: object, *, repeatable: bool = False) -> Any:
        """Send ``data`` as JSON; the parsed answer, None for an empty one.

        What broke off is not sent again, as it may have been taken: UnreachableError says so. Only
        what is ``repeatable`` comes to the same if it is taken twice.
        """
        asked = self._asked("POST", path, {}, data)
        return self._json(asked._replace(careful=not repeatable))[0]

    def download(self, path: str, to: Path, max_bytes: int, **params: object) -> None:
        """The answer's bytes into a file, which appears whole or not at all.

        Raises CorruptError for more than ``max_bytes``.
        """
        asked = self._asked("GET", path, params)
        where = self._where(path)
        temporary = to.with_name(f".{to.name[:200]}.{os.urandom(6).hex()}")

        def save(response: requests.Response) -> None:
            length = response.headers.get("Content-Length", "")
            size = int(length) if length.isascii() and length.isdigit() else 0
            with _writing(to), temporary.open("wb") as file:
                while size <= max_bytes and (piece := _read(response, PIECE_BYTES)):
                    size = max(size, file.tell() + len(piece))
                    file.write(piece)
            if size > max_bytes:
                raise CorruptError(f"there are more than {max_bytes:,} bytes", where=where)

        try:
            with _writing(to):
                to.parent.mkdir(parents=True, exist_ok=True)
            self._insist(asked, save)
            with _writing(to):
                temporary.replace(to)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def close(self) -> None:
        self._session.close()

    # -- what a service does in its own way --------------------------------------------------

    def hint(self, status: int, words: str) -> str:
        """What to do about an answer that is an error; empty for nothing to say."""
        del status, words
        return ""

    def pause(self, status: int, words: str) -> float:
        """Seconds to wait for what its words alone call asked too often; 0 for anything else."""
        del status, words
        return 0.0

    # -- one answer ---------------------------------------------------------------------------

    def _asked(
        self, method: str, path: str, params: Mapping[str, object], data: object = None
    ) -> _Asked:
        query = {name: _text(value) for name, value in params.items() if value is not None}
        body = None if data is None else json.dumps(data).encode()
        return _Asked(method, path, query, body, careful=method != "GET")

    def _json(self, asked: _Asked) -> tuple[Any, Mapping[str, str]]:
        where = self._where(asked.path)

        def parse(response: requests.Response) -> tuple[Any, Mapping[str, str]]:
            data = _body(response, _LARGEST_JSON + 1)
            if len(data) > _LARGEST_JSON:
                raise CorruptError(f"the answer has more than {_LARGEST_JSON:,} bytes", where=where)
            if not data.strip():
                return None, response.headers
            try:
                return json.loads(data), response.headers
            except (ValueError, RecursionError):
                raise CorruptError(
                    f"{self.name} does not answer JSON",
                    where=where,
                    hint=f"is this the URL of {self.name}? a login page or a proxy may be in the way",
                ) from None

        answer: tuple[Any, Mapping[str, str]] = self._insist(asked, parse)
        return answer

    def _insist(self, asked: _Asked, finish: Callable[[requests.Response], Any]) -> Any:
        """What ``finish`` makes of a good answer, after a few tries."""
        problem, where = "", self._where(asked.path)
        for attempt in range(TRIES):
            try:
                return self._once(asked, finish)
            except _Again as again:
                problem = again.problem
                if not again.worth:
                    break
                if again.wait_s > LONGEST_WAIT_S:
                    problem += f"; it wants us to wait for {again.wait_s:.0f} s"
                    break
                if attempt < TRIES - 1:
                    self._sleep(max(again.wait_s, 0.5 * 2**attempt))
        else:
            problem += f" ({TRIES} tries)"
        hint = "try again later, or check the URL and the network"
        if asked.careful:
            hint = f"it may have been done all the same: look at {self.name} before trying again"
        raise UnreachableError(problem, where=where, hint=hint)

    def _once(self, asked: _Asked, finish: Callable[[requests.Response], Any]) -> Any:
        try:
            response = self._follow(asked)
            with response:
                if 200 <= response.status_code < 300:
                    return finish(response)
                words = said(_body(response, _LARGEST_REFUSAL), self._clean)
        except StackyardError:
            raise
        except FAILURES as error:
            problem, worth = failure(error, self._timeout_s)
            worth = worth and (not asked.careful or not_sent(error))
            raise _Again(problem, worth=worth) from None
        self._check_busy(asked, response, words)
        if response.status_code in _REDIRECTED:
            words = f"it has moved to {public_url(response.headers.get('Location', ''))[:200]}"
        raise self._refused(response.status_code, words, self._where(asked.path))

    def _check_busy(self, asked: _Asked, response: requests.Response, words: str) -> None:
        status, headers = response.status_code, response.headers
        pause = self.pause(status, words)
        if status not in _BUSY and not pause and not self._limited(status, headers):
            return
        taken = status in _BUSY - _NOT_TAKEN
        raise _Again(
            f"{self.name} answers {status}{words and ': '}{words}",
            worth=not (asked.careful and taken),
            wait_s=self._wait(headers) or pause,
        )

    def _limited(self, status: int, headers: Mapping[str, str]) -> bool:
        """Whether a refusal is only about how often was asked."""
        spent = headers.get("X-RateLimit-Remaining", "") == "0" or "Retry-After" in headers
        return status == 403 and spent

    def _wait(self, headers: Mapping[str, str]) -> float:
        """Seconds that the service asks for; 0 if it does not."""
        if "Retry-After" in headers:
            return retry_after(headers)  # type: ignore[arg-type]
        spent = "0" in (headers.get("X-RateLimit-Remaining"), headers.get("RateLimit-Remaining"))
        reset = headers.get("X-RateLimit-Reset") or headers.get("RateLimit-Reset") or ""
        if not spent or not (reset.isascii() and reset.isdigit()):
            return 0.0
        return max(0.0, float(reset[:12]) - self._clock())

    def _follow(self, asked: _Asked) -> requests.Response:
        url = f"{self.root}{asked.path}"
        query: Mapping[str, str] | None = asked.query
        for _ in range(_REDIRECTS + 1):
            response = self._send(asked, url, query)
            if response.status_code not in _REDIRECTED or not asked.reading:
                return response
            place = response.headers.get("Location", "")
            response.close()
            url, query = self._place(url, place, asked), None
        raise UnreachableError(
            f"{self.name} redirects more than {_REDIRECTS} times", where=self._where(asked.path)
        )

    def _place(self, url: str, place: str, asked: _Asked) -> str:
        try:
            parts = split_url(urljoin(url, place))
        except ValueError:
            parts = split_url("")
        sealed = parts.scheme == "https" or (parts.scheme == split_url(url).scheme == "http")
        if not (sealed and parts.hostname and place and "@" not in parts.netloc):
            raise UnreachableError(
                f"{self.name} sends us to {public_url(place)[:200]!r}, where we do not go",
                where=self._where(asked.path),
                hint="only http and https are followed, and never from https to http",
            )
        return parts._replace(fragment="").geturl()

    def _send(self, asked: _Asked, url: str, query: Mapping[str, str] | None) -> requests.Response:
        headers = self._headers if self._is_home(url) else {}
        content = {"Content-Type": "application/json"} if asked.body is not None else {}
        return self._session.request(
            asked.method,
            url,
            params=query or None,
            headers={**headers, **content},
            data=asked.body,
            auth=Authorization(headers.get("Authorization", "")),
            timeout=self._timeout_s,
            allow_redirects=False,
            stream=True,
        )

    def _is_home(self, url: str) -> bool:
        """Whether a token may go there: the same place, or the same host with TLS added."""
        scheme, host, port = self._home
        sealed = {("https", host, 443)} if (scheme, port) == ("http", 80) else set()
        return _origin(url) in {self._home, *sealed}

    def _next(self, headers: Mapping[str, str], path: str) -> dict[str, object] | None:
        """The query of the next page; only that is believed, proxies spoil hosts and schemes."""
        links = requests.utils.parse_header_links(headers.get("Link", ""))
        for link in links:
            if link.get("rel") == "next":
                query = split_url(link.get("url", "")).query
                if not query:
                    raise CorruptError(
                        f"{self.name} names a next page, and not which", where=self._where(path)
                    )
                return dict(parse_qsl(query, keep_blank_values=True))
        return None

    def _refused(self, status: int, words: str, where: str) -> StoreError:
        hint = self.hint(status, words)
        text = f"{self.name} answers {status}{words and ': '}{words}"
        if kind := _KINDS.get(status):
            return kind(text, where=where, hint=hint)
        return RefusedError(text, status=status, where=where, hint=hint)

    def _where(self, path: str) -> str:
        return public_url(f"{self.root}{path}")

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def said(body: bytes, clean: Clean = str) -> str:
    """What an error's body says, in one line of up to 300 characters.

    GitLab: ``message`` (text, list, or lists by field) or ``error``; GitHub: ``message`` and
    ``errors``.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(data, Mapping):
        return ""
    found = [
        *_words(data.get("message")),
        *_words(data.get("error")),
        *_words(data.get("error_description")),
        *_words(data.get("errors")),
    ]
    line = "; ".join(dict.fromkeys(" ".join(word.split()) for word in found if word.strip()))
    return clean(line)[:300]


def _words(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < 4:
        for item in value[:20]:
            yield from _words(item, depth + 1)
    elif isinstance(value, Mapping) and depth < 4:
        if isinstance(value.get("message"), str):  # GitHub's own form of an error
            yield value["message"]
            return
        for key, item in list(value.items())[:20]:
            prefix = "" if key == "base" else f"{key}: "
            yield from (f"{prefix}{word}" for word in _words(item, depth + 1))


def _body(response: requests.Response, left: int) -> bytes:
    pieces = []
    while left > 0 and (piece := _read(response, min(left, PIECE_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _read(response: requests.Response, size: int) -> bytes:
    """Up to so many bytes; what is compressed is unpacked, though we ask for nothing of the kind."""
    piece: bytes = response.raw.read(size, decode_content=True)
    return piece


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _origin(url: str) -> tuple[str, str, int]:
    parts = split_url(url)
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of our own disk, which would else look like those of the network."""
    try:
        yield
    except OSError as error:
        if isinstance(error, requests.RequestException) or not error.strerror:
            raise
        raise StackyardError(f"cannot write it: {error.strerror}", where=str(path)) from None
