"""Standard output: text, JSON lines and raw bytes, with failures that are Holdfast's own.

A reader that went away is `BrokenPipeError`, which only the edge of the program handles.
After any failure nothing more is written, also not by the interpreter when it ends.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from holdfast.errors import TargetError, TargetFull
from holdfast.model.finding import Finding

R = TypeVar("R")


def write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        _write(f"{line}\n")


def write_document(document: object) -> None:
    """One JSON document on one line, in ASCII."""
    _write(f"{json.dumps(document)}\n")


def write_finding(finding: Finding) -> None:
    """A finding among JSON lines."""
    write_document({"finding": finding.as_dict()})


def flush() -> None:
    _translated(sys.stdout.flush)


def silence() -> None:
    """Let what is buffered go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class RawOutput:
    """Bytes to standard output; `write` takes all that it is given."""

    def write(self, data: bytes, /) -> int:
        return _translated(lambda: sys.stdout.buffer.write(data))

    def flush(self) -> None:
        _translated(sys.stdout.buffer.flush)


def _write(text: str) -> None:
    _translated(lambda: sys.stdout.write(text))


def _translated(act: Callable[[], R]) -> R:
    try:
        return act()
    except BrokenPipeError:
        silence()
        raise
    except OSError as error:
        silence()
        kind = TargetFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else TargetError
        raise kind(f"standard output cannot be written: {error.strerror}") from None
