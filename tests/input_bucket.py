"""A bucket as the region's gateway serves it to hosts, over real HTTP."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket:
    """The gateway's objects of one bucket `data`, over HTTP."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self.held = threading.Event()
        """Set while objects come slowly: after their first half a byte now and then."""
        self.released = threading.Event()
        self.cut: set[str] = set()
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def put(self, key: str, content: bytes, at: datetime) -> None:
        self.objects[key], self.modified[key] = content, at

    def _modified_at(self, key: str) -> str | None:
        """As lists have it: with milliseconds."""
        at = self.modified.get(key)
        return None if at is None else at.isoformat(timespec="milliseconds")

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        address = urlsplit(request.path)
        self.asked.append(unquote(address.path))
        below = unquote(address.path).removeprefix("/data/v1/buckets/data/objects")
        assert request.headers["Authorization"] == "Bearer full"
        if below == "":
            query = parse_qs(address.query, keep_blank_values=True)
            body = json.dumps(self.page(query["prefix"][0], query["after"][0])).encode()
        elif below.startswith("/") and below[1:] in self.objects:
            body = self.objects[below[1:]]
        else:
            request.send_error(404)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if below[1:] in self.cut:
            self.cut.discard(below[1:])
            request.wfile.write(body[: len(body) // 2])
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        if below and self.held.is_set():
            at = len(body) // 2
            with suppress(OSError):  # who asked may have gone
                request.wfile.write(body[:at])
                while not self.released.wait(0.02):
                    request.wfile.write(body[at : at + 1])
                    at += 1
                request.wfile.write(body[at:])
            return
        request.wfile.write(body)

    def page(self, prefix: str, after: str) -> dict[str, Any]:
        keys = sorted(k for k in self.objects if k.startswith(prefix) and k > after)
        objects = [
            {
                "key": key,
                "size_bytes": len(self.objects[key]),
                "etag": hashlib.md5(self.objects[key], usedforsecurity=False).hexdigest(),
                "modified_at": self._modified_at(key),
            }
            for key in keys[:1000]
        ]
        return {"objects": objects, "next_after": keys[999] if len(keys) > 1000 else None}
