"""A mirror in a bucket of Amazon S3, or of a service that speaks like it."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import Message
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from stackyard.edges.settings import Environment, conceal
from stackyard.edges.stores.bucket import PATIENCE, Bucket, Party, split_url
from stackyard.edges.stores.folder import WORK_FOLDER
from stackyard.edges.stores.service import Part, Reply, Request, origin_of
from stackyard.edges.stores.store import ANONYMOUS, Access, Store, check_key
from stackyard.errors import ConfigError, DeniedError, StoreError
from stackyard.sigv4 import Key, Signed, sign

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.credentials import Credentials

__all__ = ["S3Store", "named_endpoint", "named_key", "named_region"]

_HOME = "us-east-1"
#: Amazon copies no more at once; more goes in parts.
_LARGEST_COPY = 5 * 2**30
_COPY_PART = 2**30
#: What services say that know no conditional writes; Swift's S3 API says 501.
_NO_CONDITIONS = ("", "NotImplemented", "InvalidArgument", "InvalidRequest")

_IDENTIFY = (
    "no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or "
    "access_pair in the mirror's entry"
)
_ALLOW = (
    "the policy must allow s3:GetObject and s3:ListBucket, to write also s3:PutObject and "
    "s3:DeleteObject; without s3:ListBucket a missing file is denied too"
)


def named_key(access: Access, env: Mapping[str, str]) -> Key | None:
    """The key that is written down where no library is needed to find it; None if there is none.

    As in boto3's chain, values that are given win, a profile that is given wins over the
    environment, and the environment over a profile that the environment names.
    """
    if access.id and access.secret:
        return Key(access.id, access.secret, access.token)
    id_, secret = env.get("AWS_ACCESS_KEY_ID", ""), env.get("AWS_SECRET_ACCESS_KEY", "")
    if access.profile or not (id_ and secret) or env.get("AWS_CREDENTIAL_EXPIRATION"):
        return None
    return Key(id_, secret, env.get("AWS_SESSION_TOKEN", "") or env.get("AWS_SECURITY_TOKEN", ""))


def named_endpoint(access: Access, env: Mapping[str, str]) -> tuple[str, str]:
    """The URL of a service other than Amazon's, and what gave it; empty where nothing does.

    ``S3_ENDPOINT_URL`` is Spack's (``util/s3.py`` of Spack 1.1), the others are boto3's.
    """
    if access.endpoint_url:
        return access.endpoint_url, "the mirror's endpoint_url"
    names = ["S3_ENDPOINT_URL"]
    if env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() != "true":
        names += ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
    return next(((env[name], f"${name}") for name in names if env.get(name)), ("", ""))


def named_region(env: Mapping[str, str]) -> str:
    return env.get("AWS_REGION", "") or env.get("AWS_DEFAULT_REGION", "")


class _Found(NamedTuple):
    """What the environment and boto3's files say: who we are, and where to ask."""

    key: Callable[[], Key | None]
    endpoint: tuple[str, str]  # origin and path; empty for Amazon
    region: str


class _Customer(Party):
    """Who we are for S3, found out when it is first needed."""

    def __init__(self, bucket: str, access: Access, env: Environment) -> None:
        self._bucket = bucket
        self._access = access
        self._env = env
        self._given: _Found | None = None
        self._lock = Lock()
        self._told = ""  # the region, as an answer told it
        self.bare = False  # ETags are wanted without quotes

    def found(self) -> _Found:
        with self._lock:
            if self._given is None:
                self._given = _find(self._access, self._env)
            return self._given

    @property
    def region(self) -> str:
        return self._told or self.found().region or _HOME

    def address(self) -> tuple[str, str]:
        origin, path = self.found().endpoint
        if origin:
            return origin, f"{path}/{self._bucket}"
        return _amazon(self._bucket, self.region)

    def signed(
        self, request: Request, path: str, query: str, headers: dict[str, str]
    ) -> dict[str, str]:
        key, body = self.found().key(), request.body
        if key is None:
            return headers
        if body:
            digest = body.sha256() if isinstance(body, Part) else hashlib.sha256(body).hexdigest()
            headers = {**headers, "x-amz-content-sha256": digest}
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        asked = Signed(request.method, path, query, headers)
        return sign(key, self.region, asked, moment=moment)

    def learnt(self, reply: Reply) -> bool:
        """The bucket's region, which an answer names where another one was asked."""
        if reply.status not in (301, 307, 400, 403) or self._told:
            return False
        named = reply.headers.get("x-amz-bucket-region", "") or reply.fault.region
        if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", named) or named == self.region:
            return False
        self._told = named
        return True

    def who(self) -> str:
        return _ALLOW if self.found().key() else _IDENTIFY

    def condition(self, version: str | None) -> dict[str, str]:
        if version is None:
            return {"If-None-Match": "*"}
        return {"If-Match": version.strip('"') if self.bare else version}

    def version(self, headers: Message) -> str:
        return headers.get("ETag", "")


class S3Store(Bucket):
    """Keys below ``s3://bucket/prefix``. Opening reads nothing.

    Who we are: ``access``, else plain variables, else boto3's chain (files, web identity, roles of
    containers and machines), which renews what expires; else nobody, for public buckets.
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
        self._customer = _Customer(split_url(url)[0], access, env)
        super().__init__(url, self._customer, env, timeout_s=timeout_s, sleep=sleep)
        self._atomic: bool | None = None

    @property
    def atomic(self) -> bool:
        """Found out by trying it, once: some services take conditions and do not look at them."""
        if self._atomic is None:
            origin, _ = self._customer.found().endpoint
            self._atomic = not origin or self._probe()
        return self._atomic

    def _probe(self) -> bool:
        """Whether a file of our own, just written, is safe from being created or replaced."""
        import secrets

        key = f"{WORK_FOLDER}/probe-{secrets.token_hex(8)}"
        first = self._try(key, {"If-None-Match": "*"})
        if not first.good:
            if first.status in (400, 405, 501) and first.fault.code in _NO_CONDITIONS:
                return False
            raise self.refused(first, key)
        try:
            tag = first.headers.get("ETag", "")
            safe = all(
                self._try(key, condition).status == 412
                for condition in ({"If-None-Match": "*"}, {"If-Match": f'"{"0" * 32}"'})
            )
            return bool(tag) and safe and self._replaces(key, tag)
        finally:
            with suppress(StoreError):
                self.delete(key)

    def _replaces(self, key: str, tag: str) -> bool:
        """Amazon wants the ETag as it gave it, Ceph's gateway only without its quotes."""
        for bare in (False, True):
            self._customer.bare = bare
            if self._try(key, self._customer.condition(tag)).good:
                return True
        return False

    def _try(self, key: str, condition: dict[str, str]) -> Reply:
        return self.ask("PUT", key, headers=condition, body=b"probe")

    def can_copy_from(self, other: Store) -> bool:
        """Whether the other is at the same service, and the same identity opens both."""
        if not isinstance(other, S3Store):
            return False
        ours, theirs = self._customer.found(), other.identity
        key, other_key = ours.key(), theirs.key()
        same = key is not None and other_key is not None and key.id == other_key.id
        return same and ours.endpoint == theirs.endpoint

    @property
    def identity(self) -> _Found:
        return self._customer.found()

    def copy_from(self, other: Store, key: str, target_key: str) -> None:
        """Let the service copy a file from another of its buckets, or of this one.

        Nothing passes through this machine. Over 5 GiB it is copied in parts. Raises as reading
        and writing do.
        """
        if not isinstance(other, S3Store):
            raise StoreError("this service cannot copy from there", where=other.url)
        check_key(target_key)
        size = other.size(key)
        source = {"x-amz-copy-source": other.source(key)}
        if size > _LARGEST_COPY:

            def send(start: int, length: int) -> Request:
                span = {"x-amz-copy-source-range": f"bytes={start}-{start + length - 1}"}
                headers = {**source, **span}
                return Request("PUT", self._path(target_key), headers=headers, patience=PATIENCE)

            self._put_parts(target_key, size, send, _COPY_PART)
            return
        reply = self.ask("PUT", target_key, headers=source, patience=PATIENCE)
        if not reply.good:
            raise self.refused(reply, target_key)

    def size(self, key: str) -> int:
        """Bytes of a file. Raises as reading does."""
        reply = self.ask("HEAD", key)
        if reply.status != 200:
            self.read_range(key, 0, 1)  # whose answer says what is the matter
            raise self.refused(reply, key)
        return int(reply.headers.get("Content-Length", "0"))

    def source(self, key: str) -> str:
        """A file's name for copies: bucket and key, quoted."""
        return f"/{self.bucket}{self._path(key)}"


def _amazon(bucket: str, region: str) -> tuple[str, str]:
    """Amazon's own address of a bucket; names that no certificate covers go into the path."""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    host = f"s3.{region}.{domain}"
    if re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", bucket):
        return f"https://{bucket}.{host}", ""
    return f"https://{host}", f"/{bucket}"


def _find(access: Access, env: Environment) -> _Found:
    """Who we are and where to ask. Raises ConfigError for a profile that is not there."""
    key = named_key(access, env)
    url, what = named_endpoint(access, env)
    region = named_region(env)
    session = None
    if key is None or (not (url and region) and _has_settings(env)):
        session = _session(access.profile)
        # A role that the environment gives lies in the region of the machine, not of the bucket,
        # but asking there first is no worse than anywhere else.
        region = region or session.region_name or ""
        if not url:
            url, what = _profile_endpoint(session, env)
    endpoint = origin_of(url, what) if url else ("", "")
    if key is None:
        assert session  # noqa: S101 - made above
        return _Found(_renewed(session.get_credentials()), endpoint, region)
    conceal(key.secret, key.token)
    return _Found(lambda: key, endpoint, region)


def _has_settings(env: Mapping[str, str]) -> bool:
    """Whether boto3's file could name endpoint and region beside a key that is written down."""
    path = env.get("AWS_CONFIG_FILE") or "~/.aws/config"
    return os.path.isfile(os.path.expanduser(os.path.expandvars(path)))  # noqa: PTH111, PTH113 - expandvars has no other form


def _session(profile: str) -> Session:
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        return boto3.Session(profile_name=profile or None)
    except BotoCoreError as error:
        raise ConfigError(
            f"boto3 cannot read its settings: {error}",
            where=f"profile {profile}" if profile else "AWS",
            hint="look at AWS_PROFILE, ~/.aws/config and ~/.aws/credentials",
        ) from None


def _profile_endpoint(session: Session, env: Mapping[str, str]) -> tuple[str, str]:
    """``endpoint_url`` of the profile in boto3's file, or of S3 in its ``services`` section."""
    if env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return "", ""
    inner = session._session  # noqa: SLF001 - boto3 shows its settings nowhere else
    profile = inner.get_scoped_config()
    services = inner.full_config.get("services", {}).get(profile.get("services", ""), {})
    url = services.get("s3", {}).get("endpoint_url", "") or profile.get("endpoint_url", "")
    return url, "endpoint_url of the profile"


def _renewed(credentials: Credentials | None) -> Callable[[], Key | None]:
    """Gives the key of the moment: botocore renews what soon expires."""
    if credentials is None:
        return lambda: None

    def key() -> Key:
        from botocore.exceptions import BotoCoreError

        try:
            now = credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise DeniedError(
                "boto3 got no new credentials", where=type(error).__name__, hint="log in again"
            ) from None
        conceal(now.secret_key or "", now.token or "")
        return Key(now.access_key or "", now.secret_key or "", now.token or "")

    return key
