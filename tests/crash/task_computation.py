"""A computation whose every state is known: what a task's directory and output may hold.

Run as a program in the directory of a task, it goes on from the state that it finds there. A
step appends a line to a log, replaces a counter, and now and then adds a file; its digest
comes from the one before. It rests after each step, and after the last one, until a certain
file is there: so it never ends before its test wants it to, however slow the machine is.
Imported, it tells what has to be there. Needs Python only.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from functools import cache

PIECE_EVERY = 10
PIECE_BYTES = 60_000
COUNTER, LOG = "counter", "log"


def digest_after(steps: int) -> str:
    digest = ""
    for number in range(steps):
        digest = _next(digest, number)
    return digest


def output_of(steps: int, begun: int = 0) -> str:
    """What it prints when it begins with so many steps done and goes on to the end."""
    lines, digest = [f"begins with {begun}"], digest_after(begun)
    for number in range(begun, steps):
        digest = _next(digest, number)
        lines.append(f"step {number} {digest}")
    return "\n".join([*lines, f"digest {digest}", ""])


def check_state(files: dict[str, bytes], *, torn: bool = False) -> int:
    """Fail unless these files were there at one moment of a run; returns the steps done.

    With `torn` they may be of moments one after the other, as without a freeze.
    """
    if COUNTER not in files:
        return 0  # before the first step was done
    steps = int(files[COUNTER])
    lines = files.get(LOG, b"").decode().splitlines(keepends=True)
    if not torn:
        # The line is written first, so there may be one more, and that not to its end.
        assert steps <= len(lines) <= steps + 1, f"{len(lines)} lines after {steps} steps"
    digest = ""
    for number, line in enumerate(lines):
        digest = _next(digest, number)
        whole = f"{number} {digest}\n"
        assert line == whole or (number + 1 == len(lines) and whole.startswith(line)), (
            f"line {number} is {line!r} and not {whole!r}"
        )
    for number in range(0, steps if not torn else 0, PIECE_EVERY):
        assert files[f"piece-{number}"] == _piece(number), f"piece {number} is another one"
    return steps


def _next(digest: str, number: int) -> str:
    return hashlib.sha256(f"{digest} {number}".encode()).hexdigest()[:16]


@cache
def _piece(number: int) -> bytes:
    return random.Random(number).randbytes(PIECE_BYTES)


def _put(name: str, data: bytes) -> None:
    with open(f"{name}.new", "wb") as file:
        file.write(data)
    os.rename(f"{name}.new", name)


def _run(steps: int, pause_seconds: float, hurry: str) -> None:
    begun = 0
    if os.path.exists(COUNTER):
        with open(COUNTER, encoding="ascii") as file:
            begun = int(file.read())
    digest = digest_after(begun)
    print(f"begins with {begun}", flush=True)
    with open(LOG, "a+", encoding="ascii") as log:
        log.seek(0)
        kept = log.read().splitlines(keepends=True)[:begun]
        log.truncate(sum(map(len, kept)))
        for number in range(begun, steps):
            digest = _next(digest, number)
            log.write(f"{number} {digest}\n")
            log.flush()
            if number % PIECE_EVERY == 0:
                _put(f"piece-{number}", _piece(number))
            _put(COUNTER, b"%d" % (number + 1))
            print(f"step {number} {digest}", flush=True)
            if not os.path.exists(hurry):
                time.sleep(pause_seconds)
    while not os.path.exists(hurry):
        time.sleep(pause_seconds)
    print(f"digest {digest}", flush=True)


if __name__ == "__main__":
    _run(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
