"""A reverse proxy before a real S3 server that fails on purpose, at random or as scripted.

    with faulty(s3) as proxy:
        proxy.misbehave(Faults(seed=7, rate=0.05))
        proxy.on(lambda request: request.key.endswith("/run.json"), reset_after, times=1)
        Storage(proxy.server.config).write(...)

An action is a function of the ``Exchange`` that it spoils. What no action is for is forwarded byte by byte, the path
and the Host header too, so that signatures hold.
"""

from __future__ import annotations

import random
import re
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from html import escape, unescape
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

from support.s3_server import S3Server

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection"}
LISTING = {"list-type", "prefix", "delimiter"}


@dataclass(frozen=True)
class Request:
    """``key`` is ``bucket/path``, decoded; ``query`` is as it was sent."""

    method: str
    key: str
    query: str

    @property
    def parameters(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "/" not in self.key and bool(self.parameters.keys() & LISTING)


@dataclass(frozen=True)
class Answer:
    status: int
    reason: str | None
    headers: list[tuple[str, str]]
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer, on a connection of a client; it has a connection to the store of its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    asked: Request
    _target: str
    _body: bytes | None
    _length: int
    _is_chunked: bool

    @property
    def proxy(self) -> Proxy:
        return cast(Proxy, self.server)

    def receive(self) -> bytes:
        """The body as it comes on the wire, with the framing of its chunks if it has any."""
        if self._body is None:
            self._ask_for_body()
            if self._is_chunked:
                self._body = b"".join(self._chunks())
            else:
                self._body = self._read(self._length)
        return self._body

    def receive_half(self) -> None:
        """Half of the body; of a chunked one, whose length nobody knows, half of the first chunk."""
        self._ask_for_body()
        self._read((int(self.rfile.readline(), 16) if self._is_chunked else self._length) // 2)

    def forward(self) -> Answer:
        """Let the store do it: what it answers."""
        body = self.receive()
        if self._store.sock and select.select([self._store.sock], [], [], 0)[0]:
            self._store.close()  # the store has hung up since the last request
        self._store.putrequest(self.command, self._target, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP | {"expect"}:
                self._store.putheader(name, value)
        self._store.endheaders()
        with suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before it has read all
            self._store.send(body)
        with self._store.getresponse() as response:
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
            answer = Answer(response.status, response.reason, headers, response.read())
        return self.proxy._forwarded(self.asked, body, answer)

    def answer(self, answer: Answer) -> None:
        self._send(answer, len(answer.body))

    def answer_half(self, answer: Answer) -> None:
        """The headers, half of the body, the end of the connection; of an answer without a body just the end."""
        if answer.body and self.command != "HEAD":
            self._send(answer, len(answer.body) // 2)
        self.close()

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answer with an error as S3 words it."""
        body = f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code><Message>{escape(message)}</Message>"
        body += f"<Resource>/{escape(self.asked.key)}</Resource><RequestId>0</RequestId></Error>"
        self.answer(Answer(status, None, [("Content-Type", "application/xml")], body.encode()))

    def close(self) -> None:
        """End the connection in an orderly way: the client reads to its end."""
        self.close_connection = True

    def reset(self) -> None:
        """End the connection by RST: the client's next system call on it fails."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it shares the socket, which is not closed before
        self.connection.close()
        self.close_connection = True

    def serve(self) -> None:
        self._target = self.requestline.split()[1]  # self.path is without a second leading slash
        path, _, query = self._target.partition("?")
        bucket, _, key = unquote(path).removeprefix("/").partition("/")
        self.asked = Request(self.command, f"{bucket}/{key}" if key else bucket, query)
        self._body = None
        self._is_chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self._length = int(self.headers.get("Content-Length", 0))
        action = self.proxy._action_for(self.asked)
        if action is None:
            self.answer(self.forward())
        else:
            action(self)

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815

    def setup(self) -> None:
        super().setup()
        self._store = HTTPConnection(urlsplit(self.proxy.store.endpoint_url).netloc)
        self.proxy._connections.add(self.connection)

    def finish(self) -> None:
        self.proxy._connections.discard(self.connection)
        self._store.close()
        super().finish()

    def handle_expect_100(self) -> bool:
        return True  # answered where the body is read, which not every action does

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: tests look at ``Proxy.requests``."""

    def _ask_for_body(self) -> None:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError(f"the client sent {len(data)} of {size} bytes")
        return data

    def _chunks(self) -> Iterator[bytes]:
        size = -1
        while size:
            line = self.rfile.readline()
            size = int(line.partition(b";")[0], 16)
            yield line
            if size:
                yield self._read(size + len(b"\r\n"))
        while line != b"\r\n":  # trailers
            yield (line := self.rfile.readline() or b"\r\n")

    def _send(self, answer: Answer, size: int) -> None:
        self.receive()  # or the rest of the body would be taken for the next request
        self.send_response_only(answer.status, answer.reason)
        has_body = self.command != "HEAD" and answer.status not in (204, 304)
        for name, value in answer.headers:
            if not (has_body and name.lower() in ("content-length", "transfer-encoding")):
                self.send_header(name, value)
        if has_body:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if has_body:
            self.wfile.write(answer.body[:size])


Action = Callable[[Exchange], None]  # counted under its __name__


def slow_down(exchange: Exchange) -> None:
    """503 SlowDown; not forwarded."""
    exchange.refuse(503, "SlowDown", "Please reduce your request rate.")


def internal_error(exchange: Exchange) -> None:
    """500 InternalError; not forwarded."""
    exchange.refuse(500, "InternalError", "We encountered an internal error. Please try again.")


def reset_before(exchange: Exchange) -> None:
    """RST once the headers are read; not forwarded."""
    exchange.reset()


def reset_halfway(exchange: Exchange) -> None:
    """RST in the middle of an upload; nothing is forwarded. A request without a body: as reset_before."""
    exchange.receive_half()
    exchange.reset()


def reset_after(exchange: Exchange) -> None:
    """RST instead of the store's answer: it has done what the client must think has failed."""
    exchange.forward()
    exchange.reset()


def truncated(exchange: Exchange) -> None:
    """The answer's headers with its true Content-Length, half of its body, the end of the connection.

    Where the answer has no body, the connection ends without an answer to what the store has done.
    """
    exchange.answer_half(exchange.forward())


def drop(exchange: Exchange) -> None:
    """The request is read, the connection ends without an answer; not forwarded."""
    exchange.receive()
    exchange.close()


def slow(delay: float = 1.5) -> Action:
    """The store does it at once, its answer is passed on ``delay`` seconds later."""

    def slow(exchange: Exchange) -> None:
        answer = exchange.forward()
        exchange.proxy._closing.wait(delay)
        exchange.answer(answer)

    return slow


def reject(status: int, code: str, message: str = "") -> Action:
    """An error of S3; not forwarded."""

    def reject(exchange: Exchange) -> None:
        exchange.refuse(status, code, message)

    return reject


def hold(until: threading.Event, reached: threading.Event | None = None) -> Action:
    """Read the request, set ``reached``, forward it when ``until`` is set."""

    def hold(exchange: Exchange) -> None:
        exchange.receive()
        if reached:
            reached.set()
        while not until.wait(0.05):
            if exchange.proxy._closing.is_set():
                exchange.close()
                return
        exchange.answer(exchange.forward())

    return hold


def call(function: Callable[[], object], before: bool) -> Action:
    """Call the function and end the connection without an answer.

    ``before``: with the request read and never forwarded. Otherwise once the store has done it.
    """

    def call(exchange: Exchange) -> None:
        exchange.receive() if before else exchange.forward()
        function()
        exchange.close()

    return call


RANDOM: dict[str, Action] = {
    action.__name__: action
    for action in [slow_down, internal_error, reset_before, reset_halfway, reset_after, slow(), truncated]
}


@dataclass(frozen=True)
class Faults:
    """Each request for which ``where`` is true fails with probability ``rate``, by one of the kinds."""

    seed: int
    rate: float
    kinds: tuple[str, ...] = tuple(RANDOM)
    delay: float = 1.5  # of the slow ones
    where: Callable[[Request], bool] = lambda request: True


@dataclass(eq=False)
class Rule:
    predicate: Callable[[Request], bool]
    action: Action
    left: float
    remove: Callable[[], None] = lambda: None


class Proxy(ThreadingTCPServer):
    """``server`` is the store as it is reached through the proxy, ``store`` the store itself."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, store: S3Server) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.store = store
        self.server = replace(store, endpoint_url=f"http://127.0.0.1:{self.server_address[1]}")
        self.errors: list[BaseException] = []  # of actions, predicates and the proxy itself
        self._lock = threading.RLock()
        self._requests: list[Request] = []
        self._injected: Counter[str] = Counter()
        self._rules: list[Rule] = []
        self._faults: Faults | None = None
        self._random = random.Random()
        self._lag = 0.0
        self._created: dict[str, float] = {}
        self._connections: set[socket.socket] = set()
        self._closing = threading.Event()

    @property
    def requests(self) -> list[Request]:
        """All that have arrived, in order; a copy."""
        with self._lock:
            return self._requests.copy()

    @property
    def injected(self) -> Counter[str]:
        """How many requests met each kind of action; a copy."""
        with self._lock:
            return self._injected.copy()

    def misbehave(self, faults: Faults) -> None:
        """From now on, let requests that no rule is for fail at random."""
        unknown = set(faults.kinds) - RANDOM.keys()
        assert not unknown, f"no such kinds: {unknown}"
        with self._lock:
            self._faults = faults
            self._random = random.Random(faults.seed)

    def behave(self) -> None:
        """No faults any more: no random ones, no rules, no lag."""
        with self._lock:
            self._faults = None
            self._lag = 0
            self.clear()

    def on(self, predicate: Callable[[Request], bool], action: Action, times: int | None = None) -> Rule:
        """What to do with the requests (the first ``times`` ones) for which the predicate is true.

        Of several rules the first that matches is applied. ``remove()`` of what is returned ends this one.
        """
        rule = Rule(predicate, action, float("inf") if times is None else times)
        rule.remove = partial(self._remove, rule)
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Remove all rules."""
        with self._lock:
            self._rules.clear()

    def lag_listings(self, seconds: float) -> None:
        """Leave keys out of listings until ``seconds`` after they were created through this proxy; 0 ends it.

        A key that is overwritten stays listed, if this proxy saw it being created; one that is removed goes at once.
        Common prefixes of hidden keys alone are left out too, where the delimiter is ``/``. What is left out is not
        made up for, so a page may hold fewer keys than there are to show, down to none.
        """
        with self._lock:
            self._lag = seconds
            self._files = self.store.filesystem()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An exception in a thread of the proxy ends its connection; one that is no broken connection is kept."""
        error = sys.exception()
        if error and not isinstance(error, ConnectionError | HTTPException) and not self._closing.is_set():
            self.errors.append(error)

    def stop(self) -> None:
        """Stop listening, and cut off who is connected."""
        self._closing.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _remove(self, rule: Rule) -> None:
        with self._lock, suppress(ValueError):
            self._rules.remove(rule)

    def _action_for(self, request: Request) -> Action | None:
        with self._lock:
            self._requests.append(request)
            action = self._choose(request)
            if action:
                self._injected[action.__name__] += 1
            return action

    def _choose(self, request: Request) -> Action | None:
        for rule in self._rules:
            if rule.left > 0 and rule.predicate(request):
                rule.left -= 1
                return rule.action
        faults = self._faults
        if not faults or not faults.where(request) or self._random.random() >= faults.rate:
            return None
        kind = self._random.choice(faults.kinds)
        return slow(faults.delay) if kind == "slow" else RANDOM[kind]

    def _forwarded(self, request: Request, body: bytes, answer: Answer) -> Answer:
        """Note which objects come and go, for the listings that lag."""
        if not 200 <= answer.status < 300:
            return answer
        parameters = request.parameters
        if request.method == ("POST" if "uploadId" in parameters else "PUT") and "/" in request.key:
            self._created.setdefault(request.key, time.monotonic())
        elif request.method == "DELETE":
            self._created.pop(request.key, None)
        elif request.method == "POST" and "delete" in parameters:
            for key in re.findall(rb"<Key>(.*?)</Key>", body, re.DOTALL):
                self._created.pop(f"{request.key}/{unescape(key.decode())}", None)
        elif request.is_listing and self._lag:
            return replace(answer, body=self._without_hidden(request, answer.body))
        return answer

    def _without_hidden(self, request: Request, body: bytes) -> bytes:
        decode = unquote_plus if request.parameters.get("encoding-type") == "url" else str
        removed = 0

        def keep(match: re.Match[str]) -> str:
            nonlocal removed
            name = f"{request.key}/{decode(unescape(match['name']))}"
            is_hidden = self._is_hidden(name) if match["tag"] == "Contents" else self._hides_all_under(name)
            removed += is_hidden
            return "" if is_hidden else match[0]

        entry = r"<(?P<tag>Contents|CommonPrefixes)>.*?<(Key|Prefix)>(?P<name>.*?)</.*?</(?P=tag)>"
        text = re.sub(entry, keep, body.decode(), flags=re.DOTALL)
        return re.sub(r"(?<=<KeyCount>)\d+", lambda match: str(int(match[0]) - removed), text).encode()

    def _is_hidden(self, key: str) -> bool:
        return time.monotonic() - self._created.get(key, float("-inf")) < self._lag

    def _hides_all_under(self, prefix: str) -> bool:
        if not any(key.startswith(prefix) and self._is_hidden(key) for key in list(self._created)):
            return False
        return all(self._is_hidden(key) for key in self._files.find(prefix))


@contextmanager
def faulty(server: S3Server) -> Iterator[Proxy]:
    """A proxy before ``server``; at the end the first of its ``errors`` is raised."""
    with Proxy(server) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.stop()
        if proxy.errors:
            raise proxy.errors[0]
