"""What a demonstration says: titles, facts, how long it took, and that something differs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Differs(Exception):
    """What came back is not what was stored."""


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print a title, and how long what follows took."""
    write(f"\n{title}")
    began = time.monotonic()
    yield
    say(f"[{time.monotonic() - began:.1f} s]")


def say(line: str) -> None:
    write(f"    {line}")


def write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def expect(true: bool, otherwise: str) -> None:
    if not true:
        raise Differs(otherwise)
