"""One ASGI app out of several: the path says which one answers.

Paths are passed on as they are; each app declares its own prefixes. Starting and stopping
reaches every app once, in order and in reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

GATEWAY_PREFIXES: Final = ("/restic", "/data", "/archives", "/s3")


@dataclass(frozen=True, slots=True)
class Surface:
    """An app, and the first parts of the paths that are its; without one it gets the rest."""

    app: Any
    prefixes: tuple[str, ...] = ()

    def answers(self, path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in self.prefixes)


class OneApp:
    """Several surfaces behind one port; the first one that answers a path gets it.

    The last surface takes what no other one does.
    """

    def __init__(self, surfaces: Sequence[Surface]) -> None:
        assert surfaces, "an app of no surface answers nothing"
        self._surfaces = tuple(surfaces)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await self._surface(scope["path"])(scope, receive, send)

    def _surface(self, path: str) -> ASGIApp:
        for surface in self._surfaces[:-1]:
            if surface.answers(path):
                return surface.app  # type: ignore[no-any-return]
        return self._surfaces[-1].app  # type: ignore[no-any-return]

    async def _live(self, receive: Receive, send: Send) -> None:
        message = await receive()
        assert message["type"] == "lifespan.startup", message
        async with AsyncExitStack() as stack:
            try:
                for surface in self._surfaces:
                    await stack.enter_async_context(
                        surface.app.router.lifespan_context(surface.app)
                    )
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": repr(error)})
                raise
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
