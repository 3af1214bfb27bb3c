"""An ASGI app on one socket, served by a thread of its own.

Binding comes first and by itself, so that a port that is taken is an error with a message
and not a stack trace, and so that port 0 can be asked what it became. Signals are none of
its business: whoever owns the process calls `stop`.
"""

from __future__ import annotations

import gc
import socket
import threading
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from holdfast.errors import InUse, ServerUnavailable, UsageError
from holdfast.serve.unread_body import ClosingUnread

_BACKLOG: Final = 2048
_GRACE_SECONDS: Final = 10
_START_SECONDS: Final = 60.0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises `InUse` where somebody else does."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {host}: {error.strerror}. Choose another host."
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InUse(
            f"Cannot listen on {host} port {port}: {error.strerror}. Stop what listens there, or "
            "choose another --port."
        ) from None
    return listener


class WebServer:
    """Serves `app` on `listener` from `start` to `stop`."""

    def __init__(self, app: ASGIApp, listener: socket.socket, name: str = "web") -> None:
        config = uvicorn.Config(
            ClosingUnread(app),
            log_config=None,
            access_log=False,
            server_header=False,
            # Who the caller is behind proxies is decided at our own edge, once.
            proxy_headers=False,
            ws="none",
            lifespan="on",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Return when requests are answered; raise where the app does not come up."""
        self._thread.start()
        waited = 0.0
        while not self._server.started:
            if self._ended.wait(0.02) or waited > _START_SECONDS:
                raise ServerUnavailable("The web server did not come up; its log says why.")
            waited += 0.02
        _collect_seldom()

    def stop(self) -> None:
        """Take no more requests, and let those under way end."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        except SystemExit:
            pass  # uvicorn's way to say that the app failed to start; it has logged why
        finally:
            self._ended.set()


def _collect_seldom() -> None:
    """Leave what the program itself consists of out of garbage collections from now on.

    With a thousand agents waiting, a full collection over all modules and routes stops every
    request for up to half a second, every few seconds, and finds next to nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
