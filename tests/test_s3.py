from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import boto3
import pytest
from conftest import DATA, Project, Stackyard
from faulty_proxy import Fault, faulty_proxy
from services import S3Server
from serving import QuietHandler, serving

from stackyard.bucket import Item, Page, dump_parts, parse_fault, parse_page, parse_upload_id
from stackyard.edges.stores import bucket, s3
from stackyard.edges.stores.folder import FileStore
from stackyard.edges.stores.s3 import S3Store, named_endpoint, named_key, named_region
from stackyard.edges.stores.store import ANONYMOUS, Access, ForbiddenError, open_store
from stackyard.errors import (
    ConfigError,
    ConflictError,
    CorruptError,
    DeniedError,
    NotFoundError,
    StoreError,
    UnreachableError,
)
from stackyard.sigv4 import Key, Signed, quoted_path, quoted_query, sign

ID, SECRET, TOKEN = "AKIAEXAMPLE1", "s3cr3t-of-the-test-0001", "t0k3n-of-the-test-0001"


class Said(NamedTuple):
    """One scripted answer."""

    status: int = 200
    code: str = ""
    headers: Mapping[str, str] = {}
    body: bytes = b""

    @property
    def content(self) -> bytes:
        return self.body or (f"<Error><Code>{self.code}</Code></Error>".encode() * bool(self.code))


class Scripted(ThreadingHTTPServer):
    """An S3 service that says what it is told to; the last answer stays."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[Said] = [Said()]
        self.asked: list[tuple[str, str, Mapping[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def store(self, access: Access | None = None, url: str = "s3://example/m") -> S3Store:
        access = access or Access(id=ID, secret=SECRET)
        return S3Store(url, access._replace(endpoint_url=self.url), timeout_s=5, sleep=_no_sleep)


class _Handler(QuietHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.command, self.path, dict(self.headers.items()), body))
        replies = self.server.replies
        said = replies.pop(0) if len(replies) > 1 else replies[0]
        self.send_response(said.status)
        for name, value in said.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(said.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815


@pytest.fixture
def service() -> Iterator[Scripted]:
    server = Scripted()
    with serving(server):
        yield server


def _no_sleep(_: float) -> None:
    """Nobody waits before what failed is tried again."""


# --- signatures ---


@pytest.mark.parametrize(
    ("method", "path", "query", "token"),
    [
        ("GET", "/bucket/key", {}, ""),
        ("HEAD", "/bucket/a b+c=d%41~ü€", {}, TOKEN),
        ("PUT", "/bucket/x/y/[z]^`|", {"partNumber": "2", "uploadId": "a/b+c="}, ""),
        ("GET", "/bucket", {"list-type": "2", "prefix": "a b/ü", "max-keys": "10"}, TOKEN),
        ("POST", "/bucket/key", {"uploads": ""}, ""),
    ],
)
@pytest.mark.parametrize("region", ["us-east-1", "eu-central-2"])
def test_signatures_are_those_of_botocore(
    method: str, path: str, query: dict[str, str], token: str, region: str
) -> None:
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    sent, asked = quoted_path(path), quoted_query(query)
    url = f"http://127.0.0.1:9000{sent}{'?' if asked else ''}{asked}"
    theirs = AWSRequest(method, url, headers={"x-amz-copy-source": "/other/key"})
    S3SigV4Auth(Credentials(ID, SECRET, token or None), "s3", region).add_auth(theirs)
    headers = {"Host": "127.0.0.1:9000", "x-amz-copy-source": "/other/key"}
    moment = theirs.context["timestamp"]
    ours = sign(Key(ID, SECRET, token), region, Signed(method, sent, asked, headers), moment=moment)
    assert ours["Authorization"] == theirs.headers["Authorization"]


def test_secrets_do_not_show() -> None:
    access = Access(id=ID, secret=SECRET, token=TOKEN)
    store = S3Store("s3://user:pw@example/m?token=pw", access)
    shown = f"{Key(ID, SECRET, TOKEN)!r}{access!r}{store!r}{store.identity!r}{store.url}"
    assert not any(secret in shown for secret in (ID, SECRET, TOKEN, "pw"))
    assert store.url == "s3://example/m"


# --- who we are ---

PLAIN = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
GIVEN = Access(id="given", secret="of-the-mirror", token="lent")


@pytest.mark.parametrize(
    ("access", "env", "key"),
    [
        (ANONYMOUS, {}, None),
        (ANONYMOUS, PLAIN, Key("id", "secret")),
        (ANONYMOUS, {**PLAIN, "AWS_SESSION_TOKEN": "t"}, Key("id", "secret", "t")),
        (ANONYMOUS, {**PLAIN, "AWS_PROFILE": "p"}, Key("id", "secret")),  # as boto3 does
        (ANONYMOUS, {"AWS_ACCESS_KEY_ID": "id"}, None),
        (ANONYMOUS, {**PLAIN, "AWS_CREDENTIAL_EXPIRATION": "2030-01-01T00:00:00Z"}, None),
        (Access(profile="p"), PLAIN, None),
        (GIVEN, PLAIN, Key("given", "of-the-mirror", "lent")),
        (GIVEN._replace(profile="p"), {}, Key("given", "of-the-mirror", "lent")),
        (Access(id="half"), PLAIN, Key("id", "secret")),
    ],
)
def test_keys_that_are_written_down(
    access: Access, env: Mapping[str, str], key: Key | None
) -> None:
    assert named_key(access, env) == key


def test_plain_variables_need_no_boto3(service: Scripted) -> None:
    code = (
        "import sys\n"
        "from stackyard.edges.stores.store import open_store\n"
        "store = open_store('s3://example/m')\n"
        "print(store.read('a').decode(), 'boto3' in sys.modules, 'requests' in sys.modules)\n"
        "store.close()"
    )
    service.replies = [Said(200, body=b"hello")]
    env = {"AWS_ACCESS_KEY_ID": ID, "AWS_SECRET_ACCESS_KEY": SECRET, "S3_ENDPOINT_URL": service.url}
    root = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "hello False False\n", done.stderr
    assert f"Credential={ID}/" in service.asked[0][2]["Authorization"]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """boto3's own files: a profile each with key, endpoint, services and region."""
    (tmp_path / "credentials").write_text(
        "[one]\naws_access_key_id = id-one\naws_secret_access_key = secret-one\n"
        "[two]\naws_access_key_id = id-two\naws_secret_access_key = secret-two\n"
    )
    (tmp_path / "config").write_text(
        "[profile one]\nregion = eu-north-1\nendpoint_url = http://127.0.0.1:1/one\n"
        "[profile two]\nservices = mine\n"
        "[services mine]\ns3 =\n  endpoint_url = http://127.0.0.1:2\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path


@pytest.mark.parametrize(
    ("access", "env", "id_", "endpoint", "region"),
    [
        (Access(profile="one"), {}, "id-one", ("http://127.0.0.1:1", "/one"), "eu-north-1"),
        (Access(profile="one"), PLAIN, "id-one", ("http://127.0.0.1:1", "/one"), "eu-north-1"),
        (ANONYMOUS, {"AWS_PROFILE": "two"}, "id-two", ("http://127.0.0.1:2", ""), ""),
        (Access(profile="two"), {"AWS_REGION": "r-1"}, "id-two", ("http://127.0.0.1:2", ""), "r-1"),
        (
            Access(profile="one", endpoint_url="minio:9000"),
            {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "id-one",
            ("https://minio:9000", ""),
            "eu-north-1",
        ),
        (
            Access(profile="two"),
            {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
            "id-two",
            ("", ""),
            "",
        ),
    ],
)
def test_profiles(  # noqa: PLR0917
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    access: Access,
    env: Mapping[str, str],
    id_: str,
    endpoint: tuple[str, str],
    region: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = S3Store("s3://example", access).identity
    key = found.key()
    assert key
    assert (key.id, found.endpoint, found.region) == (id_, endpoint, region)


@pytest.mark.parametrize(
    ("env", "endpoint", "region"),
    [
        ({"AWS_PROFILE": "one"}, ("http://127.0.0.1:1", "/one"), "eu-north-1"),
        ({"AWS_PROFILE": "one", "AWS_REGION": "r-1"}, ("http://127.0.0.1:1", "/one"), "r-1"),
        ({"AWS_PROFILE": "one", "S3_ENDPOINT_URL": "a"}, ("https://a", ""), "eu-north-1"),
        ({"AWS_PROFILE": "two"}, ("http://127.0.0.1:2", ""), ""),
        ({}, ("", ""), ""),
    ],
)
@pytest.mark.parametrize("access", [ANONYMOUS, GIVEN])
def test_files_say_where_even_a_plain_key_is_for(  # noqa: PLR0917
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    access: Access,
    env: Mapping[str, str],
    endpoint: tuple[str, str],
    region: str,
) -> None:
    """As for boto3: else a key of another service would be shown to Amazon."""
    for name, value in {**PLAIN, **env}.items():
        monkeypatch.setenv(name, value)
    found = S3Store("s3://example", access).identity
    assert found.key() == named_key(access, PLAIN)
    assert (found.endpoint, found.region) == (endpoint, region)
    if endpoint[0] and "S3_ENDPOINT_URL" not in env:  # which is Spack's
        theirs = boto3.client("s3").meta
        assert theirs.endpoint_url == "".join(endpoint)


def test_a_profile_that_is_not_there(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no-such") as caught:
        S3Store("s3://example", Access(profile="no-such")).read("a")
    assert caught.value.code == 2
    monkeypatch.setenv("AWS_PROFILE", "no-such")
    with pytest.raises(ConfigError, match="no-such"):
        S3Store("s3://example").read("a")


class _Role(QuietHandler):
    """Lends keys to a container, each a little longer than boto3 keeps them."""

    given: ClassVar[list[str]] = []
    life = timedelta(minutes=5)

    def do_GET(self) -> None:  # noqa: N802
        self.given.append(f"role-{len(self.given)}")
        ends = datetime.now(timezone.utc) + self.life
        answer = {
            "AccessKeyId": self.given[-1],
            "SecretAccessKey": SECRET,
            "Token": TOKEN,
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self.answer(200, json.dumps(answer).encode())


def test_keys_of_a_container_are_renewed(
    service: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = ThreadingHTTPServer(("127.0.0.1", 0), _Role)
    monkeypatch.setattr(_Role, "given", [])
    with serving(role):
        url = f"http://127.0.0.1:{role.server_address[1]}/role"
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        store = service.store(Access(profile=""), "s3://example")
        store.read("a")
        store.read("b")
        store.close()
    first, second = (asked[2] for asked in service.asked)
    assert "Credential=role-" in first["Authorization"]
    assert first["Authorization"].split("/")[0] != second["Authorization"].split("/")[0]
    assert second["x-amz-security-token"] == TOKEN


def test_a_web_identity_opens_a_bucket(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = moto.bucket()
    (tmp_path / "token").write_text("of-the-ci-system")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/mirror")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.url)
    store = S3Store(url)
    store.write("a", b"hello")
    assert store.read("a") == b"hello"
    key = store.identity.key()
    assert key
    assert key.token
    store.close()


def test_nobody_reads_a_public_bucket(service: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", service.url)
    service.replies = [Said(200, body=b"public"), Said(403, "AccessDenied")]
    store = open_store("s3://example")
    assert store.read("a") == b"public"
    assert "Authorization" not in service.asked[0][2]
    with pytest.raises(ForbiddenError) as caught:
        store.read("b")
    assert "no credentials were found" in caught.value.hint
    store.close()


# --- where to ask ---


@pytest.mark.parametrize(
    ("access", "env", "expected"),
    [
        (ANONYMOUS, {}, ""),
        (ANONYMOUS, {"S3_ENDPOINT_URL": "a", "AWS_ENDPOINT_URL": "b"}, "a"),
        (ANONYMOUS, {"AWS_ENDPOINT_URL_S3": "a", "AWS_ENDPOINT_URL": "b"}, "a"),
        (ANONYMOUS, {"AWS_ENDPOINT_URL": "b"}, "b"),
        (
            ANONYMOUS,
            {"AWS_ENDPOINT_URL": "b", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE"},
            "",
        ),
        (Access(endpoint_url="c"), {"S3_ENDPOINT_URL": "a"}, "c"),
    ],
)
def test_endpoints(access: Access, env: Mapping[str, str], expected: str) -> None:
    assert named_endpoint(access, env)[0] == expected


@pytest.mark.parametrize(
    ("env", "region"),
    [
        ({}, ""),
        ({"AWS_DEFAULT_REGION": "a"}, "a"),
        ({"AWS_DEFAULT_REGION": "a", "AWS_REGION": "b"}, "b"),
    ],
)
def test_regions(env: Mapping[str, str], region: str) -> None:
    assert named_region(env) == region


@pytest.mark.parametrize(
    ("url", "endpoint", "region", "origin", "path"),
    [
        ("s3://my-bucket/a", "", "", "https://my-bucket.s3.us-east-1.amazonaws.com", ""),
        ("s3://my-bucket", "", "eu-west-1", "https://my-bucket.s3.eu-west-1.amazonaws.com", ""),
        (
            "s3://my-bucket",
            "",
            "cn-north-1",
            "https://my-bucket.s3.cn-north-1.amazonaws.com.cn",
            "",
        ),
        ("s3://my.bucket", "", "", "https://s3.us-east-1.amazonaws.com", "/my.bucket"),
        ("s3://My_Bucket", "", "", "https://s3.us-east-1.amazonaws.com", "/My_Bucket"),
        ("s3://my-bucket", "http://h:9000", "", "http://h:9000", "/my-bucket"),
        ("s3://my-bucket", "h:9000/", "", "https://h:9000", "/my-bucket"),
        ("s3://my-bucket", "https://h:443/s 3/", "", "https://h", "/s%203/my-bucket"),
        ("s3://my-bucket", "http://[::1]:80", "", "http://[::1]", "/my-bucket"),
    ],
)
def test_addresses(  # noqa: PLR0917
    monkeypatch: pytest.MonkeyPatch, url: str, endpoint: str, region: str, origin: str, path: str
) -> None:
    if region:
        monkeypatch.setenv("AWS_REGION", region)
    store = S3Store(url, Access(id="i", secret="s", endpoint_url=endpoint))
    assert store._customer.address() == (origin, path)


@pytest.mark.parametrize(
    ("url", "endpoint", "text"),
    [
        ("s3://", "", "names no bucket"),
        ("s3:///path", "", "names no bucket"),
        ("s3://a bucket/x", "", "names no bucket"),
        ("s3://..", "", "names no bucket"),
        ("s3://bucket/../x", "", "cannot be the path"),
        ("s3://bucket", "ftp://user:pw@host", "not the http"),
        ("s3://bucket", "http://user:pw@host", "not the http"),
        ("s3://bucket", "http://host:port", "not the http"),
        ("s3://bucket", "http://", "not the http"),
    ],
)
def test_urls_that_are_none(url: str, endpoint: str, text: str) -> None:
    with pytest.raises(StoreError, match=text) as caught:
        S3Store(url, Access(id="i", secret="s", endpoint_url=endpoint)).read("a")
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        Said(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-3"}),
        Said(400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": "eu-west-3"}),
        Said(
            400,
            body=b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>",
        ),
    ],
    ids=["redirect", "header", "body"],
)
def test_the_region_is_learnt_from_the_bucket(service: Scripted, said: Said) -> None:
    service.replies = [said, Said(200, body=b"there")]
    store = service.store()
    assert store.read("a") == b"there"
    assert store.read("b") == b"there"
    store.close()
    regions = [asked[2]["Authorization"].split("/")[2] for asked in service.asked]
    assert regions == ["us-east-1", "eu-west-3", "eu-west-3"]


def test_a_bucket_that_is_never_where_it_says(service: Scripted) -> None:
    service.replies = [
        Said(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-3"}),
        Said(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-west-4"}),
    ]
    store = service.store()
    with pytest.raises(UnreachableError, match="another region"):
        store.read("a")
    assert len(service.asked) == 2
    store.close()


# --- what the service says ---


@pytest.mark.parametrize(
    ("status", "code", "kind", "text", "hint"),
    [
        (404, "NoSuchKey", NotFoundError, "no such file", ""),
        (404, "NoSuchBucket", UnreachableError, "no bucket example", "S3_ENDPOINT_URL"),
        (403, "AccessDenied", ForbiddenError, "denies", "s3:GetObject"),
        (403, "InvalidAccessKeyId", DeniedError, "does not know", "AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", DeniedError, "not that of", "AWS_SECRET_ACCESS_KEY"),
        (400, "ExpiredToken", DeniedError, "has expired", "log in again"),
        (403, "RequestTimeTooSkewed", DeniedError, "clock", "NTP"),
        (403, "InvalidObjectState", DeniedError, "archive", "restore"),
        (301, "PermanentRedirect", UnreachableError, "another region", "AWS_REGION"),
        (418, "", UnreachableError, "answers 418", "again"),
    ],
)
def test_answers_in_plain_words(  # noqa: PLR0917
    service: Scripted, status: int, code: str, kind: type[StoreError], text: str, hint: str
) -> None:
    body = f"<Error><Code>{code}</Code><AWSAccessKeyId>{ID}</AWSAccessKeyId></Error>".encode()
    service.replies = [Said(status, body=body * bool(code))]
    store = service.store(Access(id=ID, secret=SECRET, token=TOKEN))
    for call in (store.read, lambda key: store.write(key, b"x")):
        with pytest.raises(kind, match=text) as caught:
            call("a")
        assert type(caught.value) is kind
        assert hint in caught.value.hint
        assert not any(secret in str(caught.value) for secret in (ID, SECRET, TOKEN))
    assert len(service.asked) == 2  # said once, and not tried again
    store.close()


def test_head_alone_says_too_little(service: Scripted) -> None:
    """404 to HEAD may be the bucket's, 403 may be anything: GET tells."""
    store = service.store()
    service.replies = [Said(404, "NoSuchBucket")]
    with pytest.raises(UnreachableError, match="no bucket"):
        store.exists("a")
    service.replies = [Said(403, "SignatureDoesNotMatch")]
    with pytest.raises(DeniedError, match="not that of"):
        store.exists("a")
    service.replies = [Said(404, "NoSuchKey")]
    assert store.exists("a") is False
    asked = len(service.asked)
    assert store.exists("b") is False
    assert len(service.asked) == asked + 1  # by now the bucket is known to be there
    store.close()


def test_retry_after_is_obeyed(service: Scripted) -> None:
    naps: list[float] = []
    access = Access(id=ID, secret=SECRET, endpoint_url=service.url)
    store = S3Store("s3://example", access, sleep=naps.append)
    service.replies = [
        Said(503, "SlowDown", {"Retry-After": "7"}),
        Said(400, "RequestTimeout"),
        Said(200, body=b"ok"),
    ]
    assert store.read("a") == b"ok"
    assert naps == [7.0, 1.0]
    store.close()


def test_a_proxy_is_used(service: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", service.url.replace("http://", "http://me:pr0xy@"))
    store = S3Store("s3://b/p", Access(id=ID, secret=SECRET, endpoint_url="http://far.invalid"))
    service.replies = [Said(200, body=b"through")]
    assert store.read("a") == b"through"
    _, path, headers, _ = service.asked[0]
    assert path == "http://far.invalid:80/b/p/a"
    assert headers["Proxy-Authorization"].startswith("Basic ")
    assert headers["Host"] == "far.invalid"
    store.close()


def _certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody vouches for, with its key in the same file."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now, host = datetime.now(timezone.utc), x509.IPAddress(ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _certificate(tmp_path)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = Scripted()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.replies = [Said(200, body=b"safe")]
    access = Access(id=ID, secret=SECRET, endpoint_url=server.url.replace("http:", "https:"))
    with serving(server):
        store = S3Store("s3://example", access, sleep=_no_sleep)
        with pytest.raises(UnreachableError, match="certificate is not trusted"):
            store.read("a")
        store.close()
        assert server.asked == []
        monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
        store = S3Store("s3://example", access, sleep=_no_sleep)
        assert store.read("a") == b"safe"
        store.close()


# --- conditions ---

TAG = {"ETag": '"1"'}


@pytest.mark.parametrize(
    ("replies", "atomic"),
    [
        ([Said(200, "", TAG), Said(412), Said(412), Said(200)], True),
        ([Said(200, "", TAG), Said(412), Said(412), Said(412), Said(200)], True),  # bare ETag
        ([Said(200, "", TAG), Said(412), Said(412), Said(412), Said(412)], False),
        ([Said(200, "", TAG), Said(200), Said(200)], False),
        ([Said(200, "", TAG), Said(412), Said(200)], False),
        ([Said(200), Said(412), Said(412), Said(200)], False),  # no ETag to hold on to
        ([Said(501, "NotImplemented")], False),
        ([Said(400, "InvalidArgument")], False),
    ],
    ids=["all", "bare", "no If-Match", "none", "create only", "no ETag", "501", "400"],
)
def test_conditions_are_found_out(service: Scripted, replies: list[Said], atomic: bool) -> None:  # noqa: FBT001
    service.replies = replies
    store = service.store()
    assert store.atomic is atomic
    asked = len(service.asked)
    assert store.atomic is atomic  # once
    assert len(service.asked) == asked
    paths = {asked[1] for asked in service.asked}
    assert len(paths) == 1
    assert next(iter(paths)).startswith("/example/m/.stackyard/probe-")
    store.close()


def test_who_may_not_write_cannot_find_out(service: Scripted) -> None:
    service.replies = [Said(403, "AccessDenied")]
    store = service.store()
    with pytest.raises(ForbiddenError):
        _ = store.atomic
    store.close()


def test_amazon_is_known_to_keep_conditions() -> None:
    assert S3Store("s3://example", Access(id="i", secret="s")).atomic


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ([Said(412, "PreconditionFailed")], ConflictError),
        ([Said(404, "NoSuchKey")], ConflictError),
        ([Said(409, "ConditionalRequestConflict")], UnreachableError),
        ([Said(404, "NoSuchBucket")], UnreachableError),
        ([Said(403, "AccessDenied")], ForbiddenError),
    ],
    ids=["412", "404", "409", "bucket", "denied"],
)
def test_what_a_conditional_write_may_meet(
    service: Scripted, replies: list[Said], kind: type[StoreError]
) -> None:
    store = service.store()
    store._atomic = True
    service.replies = replies
    with pytest.raises(kind):
        store.replace("a", b"x", '"1"')
    assert service.asked[0][2]["If-Match"] == '"1"'
    store.close()


def test_two_that_met_at_amazon_try_again(service: Scripted) -> None:
    store = service.store()
    store._atomic = True
    service.replies = [Said(409, "ConditionalRequestConflict"), Said(200, "", {"ETag": '"2"'})]
    assert store.create("a", b"x") == '"2"'
    store.close()


# --- listings ---


def test_keys_that_no_mirror_has_are_left_out(moto: S3Server) -> None:
    import boto3

    url = moto.bucket()
    client = boto3.client(
        "s3",
        endpoint_url=moto.url,
        aws_access_key_id=moto.id,
        aws_secret_access_key=moto.secret,
        region_name="us-east-1",
    )
    names = ("m/v3/", "m/v3/a//b", "m/v3/good", "m/.stackyard/tmp-1", "m/", "mm/v3/other", "m//x")
    for name in names:
        client.put_object(Bucket=url[5:], Key=name, Body=b"")
    client.close()
    store = moto.store(f"{url}/m")
    assert [found.key for found in store.list()] == ["v3/good"]
    store.close()


def test_parse_page() -> None:
    head = '<?xml version="1.0"?><ListBucketResult xmlns="http://x/">'
    item = (
        "<Contents><Key>a%20b+c</Key><Size>3</Size><ETag>&quot;e&quot;</ETag>"
        "<LastModified>2026-11-21T08:00:00.500Z</LastModified><Generation></Generation></Contents>"
    )
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    end = "</ListBucketResult>"
    assert parse_page(f"{head}{item}{end}".encode(), "s3://b") == Page(
        (Item("a%20b+c", 3, 1795248000.5, "e"),), ""
    )
    page = parse_page(f"{head}<EncodingType>url</EncodingType>{item}{more}{end}".encode(), "s3://b")
    assert page == Page((Item("a b c", 3, 1795248000.5, "e"),), "t")


@pytest.mark.parametrize(
    "body",
    [b"", b"<html></html>", b"{}", b"<ListBucketResult>", b"<Error><Code>x</Code></Error>",
     b"<ListBucketResult><Contents><Key>a</Key><Size>x</Size></Contents></ListBucketResult>",
     b"<ListBucketResult><Contents><LastModified>now</LastModified></Contents></ListBucketResult>"],
)  # fmt: skip
def test_what_is_no_listing(body: bytes) -> None:
    with pytest.raises(UnreachableError, match="not the listing"):
        parse_page(body, "s3://b")


def test_another_range_than_was_asked_for(service: Scripted) -> None:
    service.replies = [Said(206, headers={"Content-Range": "bytes 0-3/9"}, body=b"abcd")]
    store = service.store()
    with pytest.raises(CorruptError, match="another range came: 'bytes 0-3/9'"):
        store.read_range("a", 5, 4)
    with pytest.raises(CorruptError, match="another range came"), store.stream("a", 5):
        pass
    store.close()


@pytest.mark.parametrize(
    "end", ["", "<NextMarker>a</NextMarker>", "<NextContinuationToken></NextContinuationToken>"]
)
def test_a_listing_that_breaks_off_is_not_a_shorter_one(service: Scripted, end: str) -> None:
    """Services that know only the first form of listings give no token."""
    body = (
        "<ListBucketResult><IsTruncated>true</IsTruncated>"
        f"<Contents><Key>m/a</Key><Size>1</Size></Contents>{end}</ListBucketResult>"
    )
    service.replies = [Said(200, body=body.encode())]
    store = service.store()
    with pytest.raises(UnreachableError, match="knows no ListObjectsV2"):
        list(store.list())
    store.close()


def test_a_listing_that_never_ends(service: Scripted) -> None:
    pages = [
        "<ListBucketResult><IsTruncated>true</IsTruncated>"
        f"<NextContinuationToken>{token}</NextContinuationToken></ListBucketResult>"
        for token in ("one", "two", "one")
    ]
    service.replies = [Said(200, body=page.encode()) for page in pages]
    store = service.store()
    with pytest.raises(CorruptError, match="in a circle"):
        list(store.list())
    store.close()


def test_bombs_of_entities_do_not_go_off() -> None:
    entities = [b'<!ENTITY a0 "xxxxxxxxxx">']
    entities += [b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 10)]
    for root, inner in ((b"Error", b"Code"), (b"ListBucketResult", b"IsTruncated")):
        head = b"<!DOCTYPE %s [%s]>" % (root, b"".join(entities))
        body = b"%s<%s><%s>&a9;</%s></%s>" % (head, root, inner, inner, root)
        assert parse_fault(b"<!-- <Error -->" + body) == ("", "")
        with pytest.raises(UnreachableError, match="not the listing"):
            parse_page(body, "s3://b")


def test_small_documents() -> None:
    assert parse_fault(b"<Error><Code>NoSuchKey</Code></Error>") == ("NoSuchKey", "")
    assert parse_fault(b"<Error><Code>a b\x1b[31m</Code></Error>") == ("", "")
    assert parse_fault(b"<Error><Code>Odd (text)</Code></Error>") == ("", "")
    assert parse_fault(b"<Error") == parse_fault(b"<html>") == ("", "")
    answer = b'<R xmlns="http://x/"><UploadId>u 1</UploadId></R>'
    assert parse_upload_id(answer, "s3://b") == "u 1"
    for other in (b"", b"<R></R>"):
        with pytest.raises(UnreachableError):
            parse_upload_id(other, "s3://b")
    assert b"<PartNumber>2</PartNumber><ETag>&quot;b&quot;</ETag>" in dump_parts(
        ['"a"', '"b"']
    ) or (b'<PartNumber>2</PartNumber><ETag>"b"</ETag>' in dump_parts(['"a"', '"b"']))


# --- copies and large files ---


@pytest.fixture
def in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 5 MiB were a large file; smaller parts no service takes."""
    size = 5 * 2**20
    monkeypatch.setattr(bucket, "_LARGEST_WHOLE", size)
    monkeypatch.setattr(bucket, "_PART_BYTES", size)
    monkeypatch.setattr(s3, "_LARGEST_COPY", size)
    monkeypatch.setattr(s3, "_COPY_PART", size)


@pytest.fixture(params=["moto", "ceph"])
def real(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue(request.param)
    return server


def test_the_service_copies(real: S3Server, in_small_parts: None) -> None:
    source = real.store(f"{real.bucket()}/from here")
    target = real.store(f"{real.bucket()}/to")
    assert target.can_copy_from(source)
    assert source.can_copy_from(target)
    large = bytes(range(256)) * 2**15 * 3  # 24 MiB
    for key, data in (("small ü", b"small"), ("empty", b""), ("large", large)):
        source.write(key, data)
        target.copy_from(source, key, f"copied/{key}")
        assert target.read(f"copied/{key}", max_bytes=2**25) == data
    with pytest.raises(NotFoundError):
        target.copy_from(source, "missing", "x")
    assert not target.exists("x")
    source.close()
    target.close()


def test_who_cannot_be_copied_from(tmp_path: Path) -> None:
    access = Access(id="i", secret="s", endpoint_url="http://127.0.0.1:1")
    target = S3Store("s3://b", access)
    others: list[tuple[Any, bool]] = [
        (S3Store("s3://c", access), True),
        (S3Store("s3://c", access._replace(id="other")), False),
        (S3Store("s3://c", access._replace(endpoint_url="http://127.0.0.1:2")), False),
        (S3Store("s3://c", Access(id="i", secret="s")), False),
        (S3Store("s3://c", Access(endpoint_url="http://127.0.0.1:1")), False),
        (FileStore(tmp_path), False),
    ]
    assert [target.can_copy_from(other) for other, _ in others] == [can for _, can in others]
    with pytest.raises(StoreError, match="cannot copy"):
        target.copy_from(FileStore(tmp_path), "a", "a")


def test_rclone_is_caught_copying_nothing(rclone: S3Server, in_small_parts: None) -> None:
    store = rclone.store(rclone.bucket())
    store.write("large", b"x" * 6 * 2**20)
    with pytest.raises(StoreError, match="does not copy in parts"):
        store.copy_from(store, "large", "copy")
    assert not store.exists("copy")
    store.close()


def test_an_upload_that_fails_leaves_nothing(
    moto: S3Server, in_small_parts: None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 12 * 2**20)
    url = moto.bucket()
    with faulty_proxy(
        moto.url,
        lambda method, path, _: (
            Fault("answer", status=403) if "partNumber=2" in path and method == "PUT" else None
        ),
    ) as proxy:
        access = moto.access._replace(endpoint_url=proxy.url)
        store = S3Store(url, access, sleep=_no_sleep)
        with pytest.raises(DeniedError):
            store.upload("large", tmp_path / "file")
        assert not store.exists("large")
        store.close()
    keys = {"aws_access_key_id": moto.id, "aws_secret_access_key": moto.secret}
    client = boto3.client("s3", endpoint_url=moto.url, region_name="us-east-1", **keys)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=url[5:])
    client.close()


def test_an_upload_survives_faults(real: S3Server, in_small_parts: None, tmp_path: Path) -> None:
    """Also where the answer to the last request is lost: the upload is unknown by then."""
    data = bytes(range(256)) * 2**15 + b"end"
    (tmp_path / "file").write_bytes(data)
    lost: set[tuple[str, str]] = set()

    def first_time(method: str, path: str, _: int) -> Fault | None:
        if method not in ("PUT", "POST") or (method, path) in lost:
            return None
        lost.add((method, path))
        return Fault("answer", status=503) if method == "PUT" else Fault("lose")

    with faulty_proxy(real.url, first_time) as proxy:
        access = real.access._replace(endpoint_url=proxy.url)
        store = S3Store(real.bucket(), access, timeout_s=20, sleep=_no_sleep)
        store.upload("large", tmp_path / "file")
        assert store.read("large", max_bytes=2**24) == data
        assert [found.key for found in store.list()] == ["large"]
        store.close()


@pytest.mark.parametrize("code", ["InternalError", "AccessDenied"])
def test_a_copy_that_fails_with_status_200(service: Scripted, code: str) -> None:
    """Amazon begins its answer before it has copied; a passing trouble is tried again."""
    service.replies = [Said(200, body=b"size"), Said(200, code), Said(200)]
    store = service.store()
    if code == "InternalError":
        store.copy_from(store, "a", "b")
    else:
        with pytest.raises(StoreError, match=code):
            store.copy_from(store, "a", "b")
    said = [method for method, *_ in service.asked]
    assert said == (["HEAD", "PUT", "PUT"] if code == "InternalError" else ["HEAD", "PUT"])
    store.close()


@pytest.mark.parametrize("there", [6 * 2**20, 5])
def test_an_upload_that_was_completed_unheard(
    service: Scripted, in_small_parts: None, tmp_path: Path, there: int
) -> None:
    """The second try to complete it finds no such upload; what lies there tells why."""
    (tmp_path / "file").write_bytes(bytes(6 * 2**20))
    part = Said(200, headers={"ETag": '"e"'})
    service.replies = [
        Said(200, body=b"<R><UploadId>u</UploadId></R>"),
        *(part, part),
        Said(503),
        Said(404, "NoSuchUpload"),
        Said(200, body=bytes(there)),
        Said(204),
    ]
    store = service.store()
    if there == 6 * 2**20:
        store.upload("large", tmp_path / "file")
    else:
        with pytest.raises(StoreError, match="NoSuchUpload"):
            store.upload("large", tmp_path / "file")
    said = [method for method, *_ in service.asked]
    assert said[:6] == ["POST", "PUT", "PUT", "POST", "POST", "HEAD"]
    store.close()


# --- a plan ---


@pytest.fixture
def bucket_mirror(moto: S3Server) -> str:
    """The mirror v3-unsigned in a bucket."""
    url = f"{moto.bucket()}/binaries"
    store, folder = moto.store(url), FileStore(DATA / "mirrors" / "v3-unsigned")
    for found in folder.list():
        store.write(found.key, folder.read(found.key))
    store.close()
    return url


def test_a_plan_with_a_bucket(
    project: Project,
    stackyard: Stackyard,
    moto: S3Server,
    bucket_mirror: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.stack((DATA / "tiny.spack.lock").read_bytes(), mirror=bucket_mirror)
    for name, value in moto.variables.items():
        monkeypatch.setenv(name, value)
    folder = str(DATA / "mirrors" / "v3-unsigned")
    here, there = (
        json.loads(stackyard("plan", "--stack", "demo", "--mirror", url, "--json").out)["specs"]
        for url in (folder, bucket_mirror)
    )
    own = json.loads(stackyard("plan", "--stack", "demo", "--json").out)["specs"]
    decisions = [(spec["hash"], spec["decision"]) for spec in here]
    assert {decision for _, decision in decisions} >= {"reuse"}
    for specs in (there, own):
        assert [(spec["hash"], spec["decision"]) for spec in specs] == decisions


def test_a_plan_with_a_bucket_that_does_not_answer(
    project: Project, stackyard: Stackyard, hurried: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.stack((DATA / "tiny.spack.lock").read_bytes(), mirror="s3://example-binaries/demo")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("S3_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        answer = stackyard("plan", "--stack", "demo", code=6)
    assert "s3://example-binaries/demo" in answer.err
    assert "Connection refused" in answer.err
