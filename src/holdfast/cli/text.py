"""Text for people: durations, moments, tables, names that are safe to print.

Pure functions. A name from a snapshot may hold anything, also what a terminal would take
for a command, so every control character is shown as an escape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def moment(time: datetime) -> str:
    """Local time to the second."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 file``, ``3 files``, ``12,000 files``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def name(text: str | bytes) -> str:
    """A name or path without anything that is not printable."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()
) -> Iterator[str]:
    """Lines with aligned columns; those named in `right` are set to the right."""
    cells = [[name(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in (header, *cells)) for n in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = (
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, cell, width in zip(header, row, widths, strict=True)
        )
        return "  ".join(parts).rstrip()

    yield line(header)
    yield "  ".join("-" * width for width in widths)
    for row in cells:
        yield line(row)
