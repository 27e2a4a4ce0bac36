"""Try what a place can do: write, write on condition, delete, and what time it has."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress

from stackyard.diagnosis import Finding, skew_finding
from stackyard.edges.settings import Environment
from stackyard.edges.stores.access import Place
from stackyard.edges.stores.store import WritableStore, public_url
from stackyard.errors import ConflictError, StoreError

__all__ = ["clock_url", "credentials", "http_skew", "probe"]

#: No layout has such a file, and nobody misses it.
_PROBE = "stackyard-doctor-"
_AWS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE")
_AWS_CONTAINER = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
_TIMEOUT_S = 10.0


def probe(store: WritableStore) -> Iterator[Finding]:
    """Write a small file, read it back, and delete it, whatever goes wrong in between.

    A registry gets a blob that no image names: it clears that away itself.
    """
    data = os.urandom(32)
    if store.url.startswith(("oci://", "oci+http://")):
        yield from _probe_registry(store, data)
        return
    key = f"{_PROBE}{os.urandom(8).hex()}"
    begun = False
    try:
        begun = True
        yield from _probe_key(store, key, data)
    finally:
        if begun:
            with suppress(StoreError):
                store.delete(key)


def _probe_key(store: WritableStore, key: str, data: bytes) -> Iterator[Finding]:
    try:
        version = store.create(key, data)
        if store.read(key) != data:
            yield Finding("write", "problem", "what was written reads otherwise")
            return
    except StoreError as error:
        yield _refused("write", error)
        return
    yield Finding("write", "ok", "a small file can be written and read")
    yield skew_finding(_skew(store, key), "the time of a file written now")
    yield from _conditions(store, key, data, version)
    try:
        store.delete(key)
        gone = not store.exists(key)
    except StoreError as error:
        yield _refused("delete", error)
        return
    yield (
        Finding("delete", "ok", "it can be deleted")
        if gone
        else Finding("delete", "problem", "it is still there after it was deleted")
    )


def _conditions(store: WritableStore, key: str, data: bytes, version: str) -> Iterator[Finding]:
    """Whether two writers of the index would notice each other."""
    ignored = []
    try:
        try:
            version = store.create(key, data)
            ignored.append("create what is there")
        except ConflictError:
            pass
        try:
            store.replace(key, data, f"not-{version}")
            ignored.append("replace another version")
        except ConflictError:
            store.replace(key, data[::-1], version)
    except StoreError as error:
        yield _refused("conditional write", error)
        return
    if not ignored and store.atomic:
        yield Finding("conditional write", "ok", "several writers of the index are safe")
        return
    did = f"it let us {' and '.join(ignored)}" if ignored else "there is nothing of the kind"
    yield Finding(
        "conditional write",
        "warning",
        f"{did}: of two that write the index at once, one may be lost",
        "let one job write the index, or look with: stackyard mirror.index --check",
    )


def _probe_registry(store: WritableStore, data: bytes) -> Iterator[Finding]:
    import hashlib

    from stackyard.oci import digest_key

    try:
        store.write(digest_key(hashlib.sha256(data).hexdigest()), data)
    except StoreError as error:
        yield _refused("write", error)
        return
    yield Finding("write", "ok", "a blob can be written")
    yield Finding(
        "conditional write",
        "warning",
        "registries have none: of two that write the index at once, one may be lost",
        "let one job write the index",
    )
    yield Finding("delete", "unknown", "only deleting an image would tell", "see mirror.prune")


def _refused(check: str, error: StoreError) -> Finding:
    return Finding(check, "problem", f"{error.where}: {error.message}", error.hint)


def _skew(store: WritableStore, key: str) -> float | None:
    """Seconds between our clock and the place's, by a file that was written just now."""
    with suppress(StoreError):
        for listed in store.list(key):
            if listed.modified_s:
                return time.time() - listed.modified_s
    return None


def http_skew(url: str) -> float | None:
    """Seconds between our clock and that of a web server, by the date of any answer it gives."""
    from email.utils import parsedate_to_datetime
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(public_url(url), method="HEAD"), timeout=_TIMEOUT_S) as answer:  # noqa: S310
            date = answer.headers.get("Date", "")
    except HTTPError as error:
        date = error.headers.get("Date", "")
        error.close()
    except (OSError, ValueError):
        return None
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError):
        return None


def clock_url(place: Place, env: Environment) -> str:
    """A web address of the service behind a place, to ask for its time; empty without one."""
    scheme = place.url.partition("://")[0].lower()
    if scheme in ("http", "https"):
        return place.url
    if scheme == "s3":
        from stackyard.edges.stores.s3 import named_endpoint

        return named_endpoint(place.access, env)[0] or "https://s3.amazonaws.com"
    if scheme == "gs":
        return "https://storage.googleapis.com"
    if scheme.startswith("oci"):
        from stackyard.oci import parse_reference

        return f"{parse_reference(place.url).registry}/v2/"
    return ""


def credentials(place: Place, env: Environment) -> str:
    """Where the credentials for a place come from: names, never values."""
    scheme = place.url.partition("://")[0].lower() if "://" in place.url else "file"
    access = place.access
    if scheme == "file":
        return "none are needed; permissions of the folder decide"
    if scheme in ("http", "https"):
        has = "@" in place.url.partition("://")[2].partition("/")[0]
        return "user and password in the URL" if has else "none"
    if scheme.startswith("oci"):
        from stackyard.edges.stores.logins import find_login
        from stackyard.oci import parse_reference

        login = find_login(parse_reference(place.url), access, env)
        return "; ".join((login.source or "none", *login.remarks))
    if access.id and access.secret:
        return "access_pair of the mirror's entry"
    if access.profile:
        return f"profile {access.profile} of the mirror's entry"
    return _google(env) if scheme == "gs" else _amazon(env)


def _amazon(env: Environment) -> str:
    set_ = [name for name in (*_AWS, *_AWS_CONTAINER) if env.get(name)]
    if set_:
        return f"{set_[0]} in the environment"
    return "what boto3 finds: its files, a role of this machine, or nobody's"


def _google(env: Environment) -> str:
    if env.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return "GOOGLE_APPLICATION_CREDENTIALS in the environment"
    return "what Google's library finds: gcloud's login, or the account of this machine"
