"""The API over a small world: the real app, in this process or behind a real server.

An `Api` has the app of a deployment whose clock is the world's, and makes clients of it.
Its log is caught as it would be written.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import structlog
import uvicorn
from anyio.from_thread import start_blocking_portal
from control_world import World

from holdfast.api.app import make_app
from holdfast.control import tokens
from holdfast.control.principal import ALL_RIGHTS
from holdfast.control.tables import Account, Host
from holdfast.edge.deployment import Deployment, Limits

ORIGIN = "https://holdfast.example.org"
UNLIMITED = Limits(
    address_rate=1e6,
    address_burst=10**6,
    token_rate=1e6,
    token_burst=10**6,
    sign_in_rate=1e6,
    sign_in_burst=10**6,
    longest_wait_seconds=0.05,
    stream_seconds=0.05,
    stream_poll_seconds=0.01,
)


class InProcess(httpx.BaseTransport):
    """Sends requests of an ordinary client into an ASGI app."""

    def __init__(self, app: Any, address: str = "192.0.2.7") -> None:
        self._inner = httpx.ASGITransport(app, client=(address, 50_000), raise_app_exceptions=False)
        self._portal_of_thread = start_blocking_portal()
        self._portal = self._portal_of_thread.__enter__()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._portal.call(self._answer, request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        return httpx.Response(
            answer.status_code, headers=answer.headers, content=await answer.aread()
        )

    def close(self) -> None:
        self._portal_of_thread.__exit__(None, None, None)


class Api:
    """The app, and clients of it."""

    def __init__(self, world: World, **fields: Any) -> None:
        self.world = world
        self.log: list[dict[str, Any]] = []
        usual: dict[str, Any] = {"limits": UNLIMITED, "schema_problem": lambda database: None}
        self.deployment = Deployment(
            database=world.database,
            keys=world.keys,
            public_url=ORIGIN,
            gateway_url="https://data.example.org",
            version="1.2.3",
            replica_id="replica-1",
            clock=lambda: world.now,
            **(usual | fields),
        )
        self.app = make_app(self.deployment)
        self._transports: dict[str, InProcess] = {}

    def client(
        self, secret: str | None = None, *, address: str = "192.0.2.7", **headers: str
    ) -> httpx.Client:
        """A client that sends this secret as a bearer token."""
        if address not in self._transports:
            self._transports[address] = InProcess(self.app, address)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if secret is not None:
            given["Authorization"] = f"Bearer {secret}"
        return httpx.Client(
            transport=_Borrowed(self._transports[address]), base_url=ORIGIN, headers=given
        )

    def token(
        self,
        account: Account | None = None,
        rights: Iterable[str] = ALL_RIGHTS,
        **narrowing: Any,
    ) -> str:
        """The secret of a new access token with these rights."""
        with self.world.database.write() as tx:
            who = self.world.principal(account)
            _, secret = tokens.issue(
                tx,
                who,
                name="test",
                rights=list(rights),
                keys=self.world.keys,
                now=self.world.now,
                **narrowing,
            )
        return secret

    def agent_token(self, host: Host) -> str:
        """The credential of a host."""
        with self.world.database.write() as tx:
            return tokens.issue_for_host(tx, host, now=self.world.now)

    def gateway_token(self) -> str:
        """The credential of a gateway."""
        with self.world.database.write() as tx:
            account = self.world.operator_account
            return tokens.issue_gateway(tx, account.id, now=self.world.now)

    def owner(self, account: Account | None = None, **headers: str) -> httpx.Client:
        """A client that may do everything in an account."""
        return self.client(self.token(account), **headers)

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Method, path and description of everything in the OpenAPI document."""
        for path, item in self.app.openapi()["paths"].items():
            for method, operation in item.items():
                yield method.upper(), path, operation

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        """A real server with this app; yields its address."""
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self.app, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            self.deployment.wakeups.close()
            server.should_exit = True
            thread.join(timeout=60)
            listening.close()
            assert not thread.is_alive()

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


class _Borrowed(httpx.BaseTransport):
    """A transport that outlives the clients that use it."""

    def __init__(self, inner: InProcess) -> None:
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._inner.handle_request(request)


@contextlib.contextmanager
def caught_log(into: list[dict[str, Any]]) -> Iterator[None]:
    """Catch what structlog would write, with the context of each line."""

    def catch(_logger: Any, level: str, line: Any) -> Any:
        into.append({**line, "level": level})
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            catch,
        ],
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)
