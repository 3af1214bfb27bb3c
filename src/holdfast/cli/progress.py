"""Progress on stderr: one living line on a terminal, or a line now and then elsewhere.

Never on stdout. A terminal gets it unless told otherwise; a log file or a program only
when asked, a program as JSON lines.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import TextIO

from holdfast.cli import text
from holdfast.model.progress import Progress
from holdfast.model.quantity import print_bytes

_LINE_SECONDS = 5.0
_REDRAW_SECONDS = 0.1
_CLEAR = "\r\x1b[K"
_LEAST_SECONDS_FOR_FORECAST = 2.0


class Style(Enum):
    """How progress is shown."""

    NONE = auto()
    LIVE = auto()
    LINES = auto()
    JSON = auto()


class ProgressScreen:
    """A `Report` that shows what it is told; `clear` takes the living line away."""

    def __init__(
        self, stream: TextIO, style: Style, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream, self._style, self._clock = stream, style, clock
        self._step = ""
        self._began = self._shown = 0.0
        self._drawn = False

    def __call__(self, progress: Progress) -> None:
        if self._style is Style.NONE:
            return
        now = self._clock()
        if progress.step != self._step:
            # A living line shows a step at once, a log only what takes its time.
            self._step, self._began = progress.step, now
            self._shown = 0.0 if self._style is Style.LIVE else now
        pause = _REDRAW_SECONDS if self._style is Style.LIVE else _LINE_SECONDS
        if now - self._shown < pause:
            return
        self._shown = now
        self._show(progress, now - self._began)

    def clear(self) -> None:
        """Leave the terminal as if nothing had been shown."""
        if self._drawn:
            self._drawn = False
            self._stream.write(_CLEAR)
            self._stream.flush()

    def note(self, line: str) -> None:
        """Print a line that stays, above the living one."""
        self.clear()
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _show(self, progress: Progress, seconds: float) -> None:
        if self._style is Style.JSON:
            line = json.dumps({"progress": as_document(progress, seconds)})
        else:
            line = describe(progress, seconds)
        if self._style is Style.LIVE:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(_CLEAR + line[:width])
            self._drawn = True
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


def as_document(progress: Progress, seconds: float) -> dict[str, object]:
    """One line of progress for programs."""
    return {
        "step": progress.step,
        "seconds": round(seconds, 1),
        "files_done": progress.files_done,
        "files_total": progress.files_total,
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "current": progress.current,
    }


def describe(progress: Progress, seconds: float) -> str:
    """One line of progress for people; totals that are exceeded were only estimates."""
    parts = [progress.step]
    share = _share(progress)
    if share is not None:
        parts.append(f"{share:.0%}")
    if progress.files_done or progress.files_total:
        parts.append(text.count(progress.files_done, "file"))
    if progress.bytes_done:
        parts.append(print_bytes(progress.bytes_done))
        if seconds >= 1:
            parts.append(f"{print_bytes(int(progress.bytes_done / seconds))}/s")
    if share and seconds >= _LEAST_SECONDS_FOR_FORECAST:
        parts.append(f"{text.duration(seconds / share - seconds)} left")
    if progress.current:
        parts.append(text.name(progress.current))
    return "  ".join(parts)


def _share(progress: Progress) -> float | None:
    for done, total in (
        (progress.bytes_done, progress.bytes_total),
        (progress.files_done, progress.files_total),
    ):
        if total:
            return done / total if done <= total else None
    return None
