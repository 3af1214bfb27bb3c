"""An HTTP proxy that misbehaves by plan, in front of a real object storage.

It understands just enough HTTP to treat each request as a whole, forwards it byte for
byte (so that signatures hold), and does to it what the plan says. It decides nothing by
chance, and records every request that it saw and what it did.
"""

from __future__ import annotations

import http.client
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """One request as the proxy saw it; `number` counts from 0."""

    number: int
    method: str
    path: str


@dataclass(frozen=True)
class Act:
    """What happens to a request.

    ``cut_request``: half of its body is read, then the connection is reset; the storage
    hears nothing. ``cut_answer``: the storage does it, half of the answer's body goes
    back, then reset. ``lose_answer``: the storage does it, nothing goes back. ``answer``:
    the storage hears nothing, the client gets `status` with the S3 error `code`, or with
    `body` and its content type.
    ``delay``: forwarded after `seconds`.
    """

    kind: Literal["cut_request", "cut_answer", "lose_answer", "answer", "delay"]
    status: int = 503
    code: str = "SlowDown"
    seconds: float = 0.0
    content_type: str = "application/xml"
    body: bytes | None = None


Plan = Callable[[Request], Act | None]


@dataclass
class FlakyProxy:
    """A running proxy; `plan` may be exchanged at any time."""

    endpoint_url: str
    plan: Plan
    seen: list[tuple[Request, Act | None]]


@contextmanager
def flaky_proxy(upstream_url: str) -> Iterator[FlakyProxy]:
    """Run a proxy in front of `upstream_url`; it behaves well until it is given a plan."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    proxy = FlakyProxy(f"http://127.0.0.1:{server.server_port}", lambda _request: None, [])
    numbers = itertools.count()
    _Handler.upstreams[server.server_port] = (urlsplit(upstream_url).netloc, proxy, numbers)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        del _Handler.upstreams[server.server_port]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    upstreams: dict[int, tuple[str, FlakyProxy, Iterator[int]]] = {}  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def _handle(self) -> None:
        upstream, proxy, numbers = self.upstreams[self.server.server_address[1]]  # type: ignore[index]
        request = Request(next(numbers), self.command, self.path)
        act = proxy.plan(request)
        proxy.seen.append((request, act))
        length = int(self.headers.get("content-length", "0"))
        kind = act.kind if act is not None else "pass"
        if act is not None and kind == "cut_request":
            self.rfile.read(length // 2)
            self._reset()
            return
        body = self.rfile.read(length)
        if act is not None and kind == "answer":
            self._answer(act)
            return
        if act is not None and kind == "delay":
            time.sleep(act.seconds)
        status, headers, answer = self._forward(upstream, body)
        if kind == "lose_answer":
            self._reset()
            return
        sent = len(answer) // 2 if kind == "cut_answer" else len(answer)
        try:
            self._send(status, headers, answer, sent)
        except OSError:
            self.close_connection = True
            return
        if kind == "cut_answer":
            self._reset()

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle  # noqa: N815

    def _forward(self, upstream: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(upstream, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, sent: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "keep-alive"):
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])
        self.wfile.flush()

    def _answer(self, act: Act) -> None:
        body = act.body
        if body is None:
            body = f"<Error><Code>{act.code}</Code><Message>no</Message></Error>".encode()
        headers = [("Content-Type", act.content_type), ("Content-Length", str(len(body)))]
        self._send(act.status, headers, body, 0 if self.command == "HEAD" else len(body))

    def _reset(self) -> None:
        # Linger of zero seconds: the peer gets RST instead of an orderly end.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.shutdown(socket.SHUT_RD)
        self.close_connection = True
