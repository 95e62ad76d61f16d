"""What each fault is on the wire, before a real S3 server: boto3 and http.client, which retry nothing, and s3fs."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from support.faulty_s3 import (
    RANDOM,
    Faults,
    Proxy,
    Request,
    call,
    drop,
    faulty,
    hold,
    internal_error,
    reject,
    reset_after,
    reset_before,
    reset_halfway,
    slow,
    slow_down,
    truncated,
)
from support.s3_server import S3Server

from tart_ray.storage import Storage


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[Proxy]:
    with faulty(s3) as proxy:
        yield proxy


@pytest.fixture
def boto(proxy: Proxy) -> Iterator[Any]:
    """boto3 through the proxy, without retries."""
    with closing(client(proxy.server)) as boto:
        yield boto


@pytest.fixture
def direct(s3: S3Server) -> Iterator[Any]:
    """boto3 at the store."""
    with closing(client(s3)) as boto:
        yield boto


def client(server: S3Server) -> Any:
    config = Config(
        signature_version="s3v4", retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, read_timeout=20
    )
    access = {"aws_access_key_id": server.key, "aws_secret_access_key": server.secret, "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=server.endpoint_url, config=config, **access)


@pytest.fixture
def wire(boto: Any, bucket: str) -> Iterator[Callable[..., http.client.HTTPResponse]]:
    """Send a signed request over one kept connection by http.client."""
    connection = http.client.HTTPConnection(urlsplit(boto.meta.endpoint_url).netloc, timeout=20)

    def send(method: str, key: str, body: Any = None, **options: Any) -> http.client.HTTPResponse:
        operation = {"GET": "get_object", "PUT": "put_object", "HEAD": "head_object"}[method]
        url = urlsplit(boto.generate_presigned_url(operation, {"Bucket": bucket, "Key": key}))
        connection.request(method, f"{url.path}?{url.query}", body, **options)
        return connection.getresponse()

    with closing(connection):
        yield send


def content(direct: Any, bucket: str, key: str) -> bytes | None:
    try:
        return direct.get_object(Bucket=bucket, Key=key)["Body"].read()
    except direct.exceptions.NoSuchKey:
        return None


def everything(request: Request) -> bool:
    return True


def is_reset(error: BaseException) -> bool:
    """By RST; an orderly end without an answer raises a RemoteDisconnected, which has no number."""
    return isinstance(error, BrokenPipeError) or getattr(error, "errno", None) == errno.ECONNRESET


# --- nothing is injected ---


@pytest.mark.parametrize("name", ["a b.x", "key=value/c.x", "d%2Fe.x", "f/🦉-ü.x", "g+h&i#j?.x", "k//l.x", "'m'(n)*.x"])
def test_odd_names_pass(proxy: Proxy, boto: Any, direct: Any, bucket: str, name: str) -> None:
    boto.put_object(Bucket=bucket, Key=name, Body=name.encode())
    assert boto.get_object(Bucket=bucket, Key=name)["Body"].read() == name.encode()
    assert content(direct, bucket, name) == name.encode()
    assert proxy.requests == [Request(method, f"{bucket}/{name}", "") for method in ("PUT", "GET")]


def test_s3fs_meets_odd_names(proxy: Proxy, bucket: str) -> None:
    storage = Storage(proxy.server.config)
    url = f"s3://{bucket}/odd/a b=%2F🦉.x"
    storage.write(url, b"there")
    assert storage.read(url) == b"there"
    assert storage.names(f"s3://{bucket}/odd") == ["a b=%2F🦉.x"]
    assert [request.key for request in proxy.requests if request.method == "PUT"] == [f"{bucket}/odd/a b=%2F🦉.x"]


def test_a_large_object_and_its_ranges_pass(proxy: Proxy, boto: Any, bucket: str) -> None:
    data = bytes(range(256)) * (20 << 10)  # 5 MB
    boto.put_object(Bucket=bucket, Key="large", Body=data)
    assert boto.get_object(Bucket=bucket, Key="large")["Body"].read() == data
    part = boto.get_object(Bucket=bucket, Key="large", Range="bytes=1000-1003")
    assert part["ContentRange"] == "bytes 1000-1003/5242880"
    assert part["Body"].read() == bytes([232, 233, 234, 235])  # 1000 - 3 * 256 = 232
    assert Storage(proxy.server.config).read(f"s3://{bucket}/large", -2, None) == b"\xfe\xff"


def test_answers_without_a_body_keep_the_connection(wire: Any, boto: Any, bucket: str) -> None:
    assert wire("PUT", "bare", b"12345").read() == b""
    head = wire("HEAD", "bare")
    assert (head.status, head.headers["Content-Length"], head.read()) == (200, "5", b"")
    unchanged = wire("GET", "bare", headers={"If-None-Match": head.headers["ETag"]})
    assert (unchanged.status, unchanged.read()) == (304, b"")
    assert wire("GET", "bare").read() == b"12345"
    assert boto.delete_object(Bucket=bucket, Key="bare")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert wire("GET", "bare").status == 404


def test_a_chunked_upload_passes(wire: Any, direct: Any, bucket: str) -> None:
    pieces = [b"one ", b"two ", b"x" * 100_000]
    assert wire("PUT", "chunked", iter(pieces), encode_chunked=True).read() == b""
    assert content(direct, bucket, "chunked") == b"".join(pieces)
    assert wire("GET", "chunked").read() == b"".join(pieces)  # on the same connection: its end was found


def test_an_upload_that_waits_for_100_continue_passes(boto: Any, direct: Any, bucket: str) -> None:
    url = urlsplit(boto.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "waits"}))
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 4\r\n"
    with socket.create_connection((url.hostname, url.port), 20) as connection, connection.makefile("rb") as answer:
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert [answer.readline(), answer.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        connection.sendall(b"body")
        assert answer.readline() == b"HTTP/1.1 200 OK\r\n"
    assert content(direct, bucket, "waits") == b"body"


def test_parallel_requests_pass(proxy: Proxy, bucket: str) -> None:
    filesystem = proxy.server.filesystem()

    def there_and_back(i: int) -> bytes:
        filesystem.pipe_file(f"{bucket}/many/{i}", b"%d" % i)
        return bytes(filesystem.cat_file(f"{bucket}/many/{i}"))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(there_and_back, range(200))) == [b"%d" % i for i in range(200)]
    puts = [request.key for request in proxy.requests if request.method == "PUT"]
    assert sorted(puts) == sorted(f"{bucket}/many/{i}" for i in range(200))
    assert not proxy.injected


# --- each kind of fault ---


@pytest.mark.parametrize(
    ("action", "status", "code"),
    [
        (slow_down, 503, "SlowDown"),
        (internal_error, 500, "InternalError"),
        (reject(403, "AccessDenied", "Access <denied> & logged."), 403, "AccessDenied"),
        (reject(404, "NoSuchBucket"), 404, "NoSuchBucket"),
        (reject(507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."), 507, None),
        (reject(403, "QuotaExceeded"), 403, "QuotaExceeded"),
    ],
)
def test_errors_of_s3(
    proxy: Proxy, boto: Any, direct: Any, bucket: str, action: Any, status: int, code: str | None
) -> None:
    proxy.on(everything, action)
    with pytest.raises(ClientError) as error:
        boto.put_object(Bucket=bucket, Key="refused", Body=b"x" * 1000)
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert error.value.response["Error"]["Code"] == (code or "XMinioStorageFull")
    assert content(direct, bucket, "refused") is None
    assert proxy.injected == {action.__name__: 1}


def test_an_error_keeps_the_connection_and_answers_head_without_a_body(proxy: Proxy, wire: Any) -> None:
    proxy.on(everything, reject(403, "AccessDenied", "a <b> & c"), times=2)
    refused = wire("PUT", "kept", b"x" * 100_000)
    assert (refused.status, refused.headers["Content-Type"]) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code><Message>a &lt;b&gt; &amp; c</Message>" in refused.read()
    head = wire("HEAD", "kept")
    assert (head.status, head.read()) == (403, b"")
    assert wire("PUT", "kept", b"now").status == 200  # the third is none of the rule's


@pytest.mark.parametrize(
    ("action", "is_stored"), [(reset_before, False), (reset_halfway, False), (reset_after, True), (drop, False)]
)
def test_connections_that_break(
    proxy: Proxy, wire: Any, direct: Any, bucket: str, action: Any, is_stored: bool
) -> None:
    key = f"breaks/{action.__name__}"
    proxy.on(everything, action)
    with pytest.raises(ConnectionError) as error:
        wire("PUT", key, b"x" * 100_000)
    assert is_reset(error.value) == (action is not drop)
    assert content(direct, bucket, key) == (b"x" * 100_000 if is_stored else None)
    assert proxy.injected == {action.__name__: 1}


@pytest.mark.parametrize("action", [reset_before, reset_halfway, reset_after])
def test_downloads_are_reset_too(proxy: Proxy, wire: Any, action: Any) -> None:
    wire("PUT", "read", b"12345").read()
    proxy.on(everything, action)
    with pytest.raises(ConnectionResetError) as error:
        wire("GET", "read")
    assert is_reset(error.value)


def test_half_an_upload_is_read_before_the_reset(proxy: Proxy, bucket: str) -> None:
    half = threading.Event()

    def watched(exchange: Any) -> None:
        exchange.receive_half()
        half.set()
        exchange.reset()

    proxy.on(everything, watched)
    address = urlsplit(proxy.server.endpoint_url)
    with socket.create_connection((address.hostname, address.port), 20) as connection:
        connection.sendall(b"PUT /%b/half HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n1234" % bucket.encode())
        assert not half.wait(0.1)  # four of ten bytes
        connection.sendall(b"5")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert half.is_set()


def test_a_retry_after_reset_after_meets_its_own_result(proxy: Proxy, boto: Any, bucket: str) -> None:
    proxy.on(everything, reset_after, times=1)
    put = {"Bucket": bucket, "Key": "own", "Body": b"mine", "IfNoneMatch": "*"}
    with pytest.raises(ConnectionClosedError):
        boto.put_object(**put)
    with pytest.raises(ClientError, match="PreconditionFailed"):
        boto.put_object(**put)


def test_a_truncated_answer_has_all_headers_and_half_a_body(proxy: Proxy, wire: Any) -> None:
    wire("PUT", "cut", b"0123456789").read()
    proxy.on(everything, truncated)
    answer = wire("GET", "cut")
    assert (answer.status, answer.headers["Content-Length"]) == (200, "10")
    with pytest.raises(http.client.IncompleteRead) as error:
        answer.read()
    assert (error.value.partial, error.value.expected) == (b"01234", 5)


def test_a_truncated_answer_without_a_body_is_none(proxy: Proxy, wire: Any, direct: Any, bucket: str) -> None:
    proxy.on(everything, truncated)
    with pytest.raises(http.client.RemoteDisconnected):
        wire("PUT", "cut-put", b"stored")
    assert content(direct, bucket, "cut-put") == b"stored"


def test_a_slow_answer_comes_late(proxy: Proxy, wire: Any) -> None:
    proxy.on(everything, slow(0.3))
    begin = time.monotonic()
    assert wire("PUT", "late", b"x").status == 200
    assert time.monotonic() - begin >= 0.3


def test_a_held_request_waits(proxy: Proxy, boto: Any, direct: Any, bucket: str) -> None:
    until, reached = threading.Event(), threading.Event()
    proxy.on(lambda request: request.key.endswith("/held"), hold(until, reached))
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(boto.put_object, Bucket=bucket, Key="held", Body=b"x")
        assert reached.wait(20)
        boto.put_object(Bucket=bucket, Key="passes", Body=b"y")
        assert content(direct, bucket, "held") is None
        assert not put.done()
        until.set()
        assert put.result(20)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert content(direct, bucket, "held") == b"x"


PUT_THREE = """
import json, sys, s3fs
files = s3fs.S3FileSystem(**json.loads(sys.argv[1]))
for i in range(3):
    files.pipe_file(f"{sys.argv[2]}/{i}", b"x")
"""


@pytest.mark.parametrize("before", [True, False])
def test_a_process_is_killed_when_it_puts_an_object(proxy: Proxy, direct: Any, bucket: str, before: bool) -> None:
    folder = f"{bucket}/killed-{before}"
    started = threading.Event()
    process: subprocess.Popen[bytes]

    def kill() -> None:
        assert started.wait(20)
        process.kill()

    proxy.on(lambda request: request.key == f"{folder}/1", call(kill, before))
    process = subprocess.Popen([sys.executable, "-c", PUT_THREE, json.dumps(proxy.server.storage_options), folder])
    started.set()
    assert process.wait(60) == -9
    stored = [content(direct, bucket, f"killed-{before}/{i}") for i in range(3)]
    assert stored == [b"x", None if before else b"x", None]
    assert [request.key for request in proxy.requests if request.method == "PUT"] == [f"{folder}/{i}" for i in (0, 1)]


# --- who meets which fault ---


def test_of_several_rules_the_first_that_matches_wins(proxy: Proxy, wire: Any) -> None:
    def status(key: str) -> int:
        answer = wire("PUT", key, b"")
        answer.read()
        return int(answer.status)

    first = proxy.on(lambda request: "a" in request.key.split("/")[1], reject(403, "AccessDenied"))
    proxy.on(lambda request: request.method == "PUT", reject(507, "XMinioStorageFull"))
    assert [status("a"), status("z")] == [403, 507]
    first.remove()
    assert status("a") == 507
    first.remove()  # again: nothing
    proxy.clear()
    assert status("a") == 200
    assert proxy.injected == {"reject": 3}


def test_random_faults_follow_their_seed(proxy: Proxy, wire: Any) -> None:
    def statuses(seed: int) -> list[int]:
        proxy.misbehave(Faults(seed, 0.3, ("slow_down", "internal_error"), where=lambda request: "/r" in request.key))
        found = []
        for i in range(60):
            answer = wire("HEAD", f"r{i}")
            answer.read()
            found.append(answer.status)
        return found

    first, again, other = statuses(1), statuses(1), statuses(2)
    assert first == again != other
    assert set(first) == {404, 500, 503}
    assert proxy.injected["slow_down"] == (first + again + other).count(503)
    assert proxy.injected["internal_error"] == (first + again + other).count(500)
    answer = wire("HEAD", "elsewhere")
    assert (answer.status, answer.read()) == (404, b"")
    proxy.behave()
    assert wire("HEAD", "r0").status == 404


def test_an_error_of_a_callback_is_raised_at_the_end(s3: S3Server, bucket: str) -> None:
    def fail() -> None:
        raise ProcessLookupError("no such process")

    with pytest.raises(ProcessLookupError), faulty(s3) as proxy, closing(client(proxy.server)) as boto:  # noqa: PT012
        proxy.on(everything, call(fail, before=True))
        with pytest.raises(ConnectionClosedError):
            boto.head_bucket(Bucket=bucket)


# --- listings that lag ---


def listing(boto: Any, bucket: str, prefix: str, **options: Any) -> tuple[list[str], list[str], int]:
    page = boto.list_objects_v2(Bucket=bucket, Prefix=prefix, **options)
    keys = [entry["Key"] for entry in page.get("Contents", [])]
    return keys, [entry["Prefix"] for entry in page.get("CommonPrefixes", [])], page["KeyCount"]


def test_a_listing_lags_and_then_shows(proxy: Proxy, boto: Any, direct: Any, bucket: str) -> None:
    odd = ["lag/&.x", "lag/a b+c%2F=.x", "lag/🦉.x"]
    direct.put_object(Bucket=bucket, Key="lag/old", Body=b"x")
    direct.put_object(Bucket=bucket, Key="lag/both/old", Body=b"x")
    begin = time.monotonic()
    for key in [*odd, "lag/new/deep", "lag/both/new"]:
        boto.put_object(Bucket=bucket, Key=key, Body=b"x")
    shown = ([*odd[:2], "lag/old", odd[2]], ["lag/both/", "lag/new/"], 6)
    assert listing(boto, bucket, "lag/", Delimiter="/") == shown
    proxy.lag_listings(3600)
    assert listing(boto, bucket, "lag/", Delimiter="/") == (["lag/old"], ["lag/both/"], 2)
    assert listing(boto, bucket, "lag/") == (["lag/both/old", "lag/old"], [], 2)
    assert boto.get_object(Bucket=bucket, Key="lag/new/deep")["Body"].read() == b"x"  # only listings lag
    assert listing(direct, bucket, "lag/", Delimiter="/") == shown
    proxy.lag_listings(0.5)
    while listing(boto, bucket, "lag/", Delimiter="/") != shown:
        assert time.monotonic() - begin < 60
    assert time.monotonic() - begin >= 0.5


def test_what_was_listed_stays_listed_when_it_is_overwritten(proxy: Proxy, boto: Any, bucket: str) -> None:
    proxy.lag_listings(0.2)
    boto.put_object(Bucket=bucket, Key="again/a", Body=b"x")
    deadline = time.monotonic() + 60
    while not listing(boto, bucket, "again/")[0]:
        assert time.monotonic() < deadline
    boto.put_object(Bucket=bucket, Key="again/a", Body=b"xyz")
    assert listing(boto, bucket, "again/") == (["again/a"], [], 1)
    boto.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "again/a"}]})
    proxy.lag_listings(3600)
    boto.put_object(Bucket=bucket, Key="again/a", Body=b"new")
    assert listing(boto, bucket, "again/") == ([], [], 0)


def test_s3fs_lists_late(proxy: Proxy, bucket: str) -> None:
    storage = Storage(proxy.server.config)
    storage.write(f"s3://{bucket}/late/a", b"x")
    proxy.lag_listings(3600)
    assert storage.names(f"s3://{bucket}/late") == []
    assert storage.exists(f"s3://{bucket}/late/a")
    proxy.lag_listings(0)
    assert storage.names(f"s3://{bucket}/late") == ["a"]


# --- the client of this project ---


def test_storage_stands_all_random_faults(proxy: Proxy, bucket: str) -> None:
    storage = Storage(proxy.server.config)
    proxy.misbehave(Faults(seed=7, rate=0.1, delay=0.05))
    urls = [f"s3://{bucket}/storage/{i:03}" for i in range(100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(storage.write, urls, [b"%d" % i for i in range(100)]))
        assert list(pool.map(storage.read, urls)) == [b"%d" % i for i in range(100)]
    assert storage.read_many(urls) == [b"%d" % i for i in range(100)]
    assert storage.names(f"s3://{bucket}/storage") == [f"{i:03}" for i in range(100)]
    assert set(proxy.injected) == set(RANDOM)
