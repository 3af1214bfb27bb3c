"""A running server: its parts started in order, watched, and stopped in reverse.

Everything is in one process but the embedded agent, which is a child. Each part can also
run alone, in as many processes as are wanted: they meet in the database and over HTTP.
Whatever ends it, a server stops in order or is picked up by its next start as it was.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import FrameType
from typing import Any
from uuid import uuid4

import structlog

from holdfast.errors import ServerUnavailable, UsageError
from holdfast.serve import logs
from holdfast.serve.app import GATEWAY_PREFIXES, OneApp, Surface
from holdfast.serve.first_start import make_directory, read_secret
from holdfast.serve.instance import only_instance
from holdfast.serve.settings import Settings
from holdfast.serve.web_server import WebServer, listen

_log = structlog.get_logger("holdfast.up")


class Part(StrEnum):
    """What can run alone."""

    API = "api"
    GATEWAY = "gateway"
    CLOCKWORK = "clockwork"


@dataclass(frozen=True, slots=True)
class Listening:
    """What a person is told when a server is up."""

    url: str
    parts: tuple[str, ...]
    owner_email: str = ""
    password_file: str = ""
    first: bool = False


def _now() -> datetime:
    return datetime.now(UTC)


def up(
    settings: Settings,
    *,
    only: Part | None = None,
    announce: Callable[[Listening], None],
    stop: threading.Event | None = None,
    clock: Callable[[], datetime] = _now,
) -> None:
    """Run a server until SIGTERM or SIGINT, or until `stop` is set.

    `clock` is the time as the control plane has it; agents and gateways have their own.
    """
    make_directory(settings.data_directory)
    stop = stop or threading.Event()
    with only_instance(settings.data_directory), _signals(stop), ExitStack() as stack:
        logs.set_up(style=settings.log_format, level=settings.log_level)
        web: WebServer | None
        if only is Part.GATEWAY:
            web = _gateway_alone(settings, stack, announce)
        else:
            web = _control(settings, only, stack, announce, clock)
        while not stop.wait(1.0):
            if web is not None and web.ended:
                raise ServerUnavailable("The web server ended by itself; the log says why.")
        _log.info("stopping")
    _log.info("stopped")


def _control(
    settings: Settings,
    only: Part | None,
    stack: ExitStack,
    announce: Callable[[Listening], None],
    clock: Callable[[], datetime],
) -> WebServer | None:
    """Start what has the database; what is started last is stopped first."""
    from holdfast.serve.control_parts import ControlParts

    web: WebServer | None = None
    url = ""
    # Before anything else, because a port that is taken is the most common mistake.
    listener = listen(settings.host, settings.port) if only is not Part.CLOCKWORK else None
    if listener is not None:
        stack.callback(listener.close)
    parts = ControlParts.open(settings, replica_id=str(uuid4()), clock=clock)
    stack.callback(parts.close)
    if only is not Part.API:
        for ticker, after in parts.tickers():
            stack.callback(after)
            ticker.start()
            stack.callback(ticker.stop)
    if listener is not None:
        url = local_url(settings.host, listener.getsockname()[1])
        deployment = parts.deployment(url)
        credential = parts.gateway_credential()
        surfaces = [
            Surface(parts.lium(deployment), ("/lium",)),
            Surface(parts.qarnot(deployment), ("/qarnot",)),
            Surface(parts.api(deployment)),
        ]
        if only is None:
            from holdfast.serve.gateway_part import gateway_app

            gateway = gateway_app(settings, url, credential, stack)
            surfaces.insert(0, Surface(gateway, GATEWAY_PREFIXES))
        web = WebServer(OneApp(surfaces), listener)
        web.start()
        stack.callback(web.stop)
        stack.callback(deployment.wakeups.close)
    if only is None and settings.embedded_agent:
        from holdfast.serve.embedded_agent import embedded_agent

        child = embedded_agent(parts, url)
        child.start()
        stack.callback(child.stop)
    running = (only.value,) if only else ("api", "gateway", "clockwork")
    announce(
        Listening(
            settings.public_url or url,
            running,
            owner_email=parts.first.owner_email,
            password_file=parts.first.password_file,
            first=parts.first.new,
        )
    )
    return web


def _gateway_alone(
    settings: Settings, stack: ExitStack, announce: Callable[[Listening], None]
) -> WebServer:
    from holdfast.serve.gateway_part import gateway_app

    if not settings.control_url:
        raise UsageError(
            "A gateway alone needs the setting control_url: the address of the API that it asks."
        )
    try:
        credential = read_secret(settings.gateway_credential)
    except OSError as error:
        raise UsageError(
            f"The gateway's credential {settings.gateway_credential} cannot be read: "
            f"{error.strerror}. A server with the API writes it; copy it here."
        ) from None
    listener = listen(settings.host, settings.port)
    stack.callback(listener.close)
    app = gateway_app(settings, settings.control_url, credential, stack)
    web = WebServer(OneApp([Surface(app)]), listener)
    web.start()
    stack.callback(web.stop)
    url = local_url(settings.host, listener.getsockname()[1])
    announce(Listening(settings.public_url or url, ("gateway",)))
    return web


def local_url(host: str, port: int) -> str:
    """How this machine itself reaches what listens there."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)  # noqa: S104
    if ":" in reachable and not reachable.startswith("["):
        reachable = f"[{reachable}]"
    return f"http://{reachable}:{port}"


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT set `stop`; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    before: dict[int, Any] = {}
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before[each] = signal.signal(each, asked)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
