"""A flow that writes a stream, in a thread of its own, and the event loop that sends it.

Between them lie a few megabytes at most: the flow waits while the client is slow. Small writes
are gathered. When nobody reads any more, the flow's next write raises and it unwinds.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from holdfast.errors import Interrupted

_PIECE_BYTES = 256 << 10
_CAPACITY_BYTES = 4 << 20


class PumpSink:
    """The end that the flow writes to."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._small = bytearray()

    def write(self, data: bytes, /) -> None:
        """Take all of `data`; raise `Interrupted` where nobody wants it."""
        if len(self._small) + len(data) < _PIECE_BYTES:
            self._small += data
            return
        self.flush()
        if len(data) < _PIECE_BYTES:
            self._small += data
        else:
            self._pump.put(bytes(data))

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._small:
            data, self._small = bytes(self._small), bytearray()
            self._pump.put(data)


class Pump:
    """Runs `produce` with a sink; `read` gives what it wrote. Made in an event loop."""

    def __init__(self, produce: Callable[[PumpSink], object], name: str) -> None:
        self._produce = produce
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._ended = self._unwanted = False
        self._error: BaseException | None = None
        self._more = asyncio.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"pump-{name}", daemon=True)
        self._thread.start()

    async def read(self) -> bytes:
        """The next piece, or nothing at the end; raises what the flow raised."""
        while True:
            with self._changed:
                if self._pieces:
                    data = self._pieces.popleft()
                    self._held_bytes -= len(data)
                    self._changed.notify()
                    return data
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return b""
                self._more.clear()
            await self._more.wait()

    async def close(self) -> None:
        """Stop the flow and wait until it has let go of everything."""
        with self._changed:
            self._unwanted = True
            self._changed.notify()
        await self._over.wait()

    def put(self, data: bytes) -> None:
        """Called by the sink, in the thread."""
        with self._changed:
            while self._held_bytes >= _CAPACITY_BYTES and not self._unwanted:
                self._changed.wait()
            if self._unwanted:
                raise Interrupted("the client does not read on")
            self._pieces.append(data)
            self._held_bytes += len(data)
        self._loop.call_soon_threadsafe(self._more.set)

    def _run(self) -> None:
        sink = PumpSink(self)
        try:
            self._produce(sink)
            sink.flush()
        except BaseException as error:
            self._error = error
        with self._changed:
            self._ended = True
        try:
            self._loop.call_soon_threadsafe(self._finished)
        except RuntimeError:
            return  # the event loop ended first; nobody waits any more

    def _finished(self) -> None:
        self._more.set()
        self._over.set()
