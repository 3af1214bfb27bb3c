"""A relay in front of a server: it writes down what was acknowledged, and strikes where told.

Agents, gateways' clients and people reach a server only through it, at an address that stays
while the server is killed and started anew. An answer that the server gave is an
acknowledgement, whether or not it arrived. A `Blow` is struck once, at a certain message.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ANSWER_SECONDS = 120.0
_PIECE_BYTES = 1 << 16
_CHANGES = frozenset({"POST", "PATCH", "PUT", "DELETE"})
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class Phase(StrEnum):
    """When a blow is struck, seen from the message."""

    LOST = "lost"
    """Before the server sees it, and it never does."""
    UNDERWAY = "underway"
    """While the server works on it."""
    UNANSWERED = "unanswered"
    """After the server has answered; the answer never arrives."""
    ANSWERED = "answered"
    """After the answer has arrived."""


@dataclass(frozen=True)
class Message:
    """A request on its way; `body` is its document where it is one, `secret` whose it is.

    Where the server has answered, `status` and `answer` are what it said.
    """

    method: str
    path: str
    secret: str = field(default="", repr=False)
    body: Any = None
    status: int = 0
    answer: Any = None

    @property
    def name(self) -> str:
        """What it is, without ids: ``POST locks`` of a repository, ``POST /finish`` of a job."""
        path = self.path.partition("?")[0].rstrip("/")
        found = re.fullmatch(r"/restic/[^/]+(?:/(\w+)(?:/\w+)?)?", path)
        if found:
            return f"{self.method} {found[1] or 'repository'}"
        return f"{self.method} /{path.rpartition('/')[2]}"


@dataclass(frozen=True)
class Acknowledged:
    """A change that the server has said to have made."""

    message: Message
    request_id: str
    replayed: bool


@dataclass
class Blow:
    """Strikes once, at the `nth` message for which `at` is true."""

    at: Callable[[Message], bool]
    phase: Phase
    strike: Callable[[Message], None]
    nth: int = 1
    struck: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None


class Relay:
    """Listens on a port of its own, and passes on to `target`, which may come and go."""

    def __init__(self) -> None:
        self.target: tuple[str, int] | None = None
        self.acknowledged: list[Acknowledged] = []
        self.refused: list[Message] = []
        self.seen: list[str] = []
        self._blows: list[Blow] = []
        self._lock = threading.Lock()
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _ANSWER_SECONDS
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                self.upstream: http.client.HTTPConnection | None = None

            def finish(self) -> None:
                self.forget()
                with suppress(OSError, ValueError):
                    super().finish()

            def forget(self) -> None:
                if self.upstream is not None:
                    self.upstream.close()
                    self.upstream = None

            def handle(self) -> None:
                with suppress(OSError, http.client.HTTPException):
                    super().handle()

            def _pass(self) -> None:
                try:
                    relay._pass(self)
                except (OSError, http.client.HTTPException):
                    self.hang_up()

            def hang_up(self) -> None:
                self.close_connection = True
                self.forget()
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = _pass  # noqa: N815

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Whoever was killed in the middle is part of the game."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def plan(
        self,
        at: Callable[[Message], bool],
        phase: Phase,
        strike: Callable[[Message], None],
        *,
        nth: int = 1,
    ) -> Blow:
        blow = Blow(at, phase, strike, nth)
        with self._lock:
            self._blows.append(blow)
        return blow

    def forget_blows(self) -> None:
        with self._lock:
            self._blows.clear()

    def _due(self, message: Message, *phases: Phase) -> Blow | None:
        with self._lock:
            for blow in self._blows:
                if blow.phase in phases and blow.at(message):
                    blow.nth -= 1
                    if blow.nth == 0:
                        self._blows.remove(blow)
                        blow.struck.set()
                        return blow
        return None

    def _pass(self, handler: Any) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        data = handler.rfile.read(length) if length else b""
        if len(data) < length:
            raise ConnectionResetError
        secret = _secret(handler.headers.get("Authorization") or "")
        body = _document(handler.headers, data)
        message = Message(handler.command, handler.path, secret, body)
        self.seen.append(message.name)
        if self.target is None:
            raise ConnectionRefusedError  # a blow waits for a server that is there
        blow = self._due(message, Phase.LOST, Phase.UNDERWAY)
        if blow is not None and blow.phase is Phase.LOST:
            _strike(blow, message)
            handler.hang_up()
            return
        response = self._ask(handler, message, data, blow)
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in _HOP_BY_HOP]
        answer = response.read() if message.method != "HEAD" else b""
        told = _document(response.headers, answer)
        message = replace(message, status=response.status, answer=told)
        self._note(message, response)
        blow = self._due(message, Phase.UNANSWERED, Phase.ANSWERED)
        if blow is not None and blow.phase is Phase.UNANSWERED:
            _strike(blow, message)
            handler.hang_up()
            return
        handler.send_response_only(response.status)
        for name, value in kept:
            handler.send_header(name, value)
        size = response.getheader("Content-Length") if message.method == "HEAD" else len(answer)
        if response.status != 204 and size is not None:
            handler.send_header("Content-Length", str(size))
        handler.end_headers()
        handler.wfile.write(answer)
        handler.wfile.flush()
        if blow is not None:
            _strike(blow, message)

    def _ask(
        self, handler: Any, message: Message, data: bytes, blow: Blow | None
    ) -> http.client.HTTPResponse:
        """Pass the request on; a client that hangs up is passed on, too."""
        if handler.upstream is None or self.target != handler.upstream_target:
            handler.forget()
            if self.target is None:
                raise ConnectionRefusedError
            handler.upstream_target = self.target
            handler.upstream = http.client.HTTPConnection(*self.target, timeout=_ANSWER_SECONDS)
        upstream = handler.upstream
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in _HOP_BY_HOP}
        if data or message.method in _CHANGES:
            headers["Content-Length"] = str(len(data))
        upstream.request(message.method, message.path, body=data, headers=headers)
        if blow is not None and blow.phase is Phase.UNDERWAY:
            _strike(blow, message)
        while True:
            readable, _, _ = select.select([upstream.sock, handler.connection], [], [], 1.0)
            if upstream.sock in readable:
                break
            if handler.connection in readable and not handler.connection.recv(1, socket.MSG_PEEK):
                raise ConnectionResetError
        response: http.client.HTTPResponse = upstream.getresponse()
        return response

    def _note(self, message: Message, response: http.client.HTTPResponse) -> None:
        if message.method not in _CHANGES or not message.path.startswith("/api/"):
            return
        if 200 <= message.status < 300:
            replayed = response.getheader("Idempotent-Replayed") is not None
            request_id = response.getheader("X-Request-ID", "")
            self.acknowledged.append(Acknowledged(message, request_id, replayed))
        else:
            self.refused.append(message)


def _strike(blow: Blow, message: Message) -> None:
    try:
        blow.strike(message)
    except BaseException as error:
        blow.failure = error
    finally:
        blow.done.set()


def _secret(header: str) -> str:
    """The token of a bearer, or the password of a basic authorization."""
    scheme, _, rest = header.partition(" ")
    if scheme.lower() == "basic":
        return base64.b64decode(rest).decode().partition(":")[2]
    return rest


def _document(headers: Any, data: bytes) -> Any:
    if "json" not in (headers.get("Content-Type") or "") or not data:
        return None
    try:
        return json.loads(data)
    except ValueError:
        return None
