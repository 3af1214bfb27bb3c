"""The computation of `task_snapshots.py`: rounds of hashing, each followed by one changed file.

Called with a directory, the bytes of a file, rounds and hashings in a round. It prints the
seconds of all rounds. The work is fixed, so only what others do can make it take longer.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time

_BLOCK = bytes(1 << 20)


def work(hashings: int) -> None:
    for _ in range(hashings):
        hashlib.sha256(_BLOCK).digest()


def hashings_in(seconds: float) -> int:
    """How many hashings this machine does in so many seconds, if nothing else runs."""
    work(200)
    began = time.perf_counter()
    work(1000)
    return max(1, round(1000 * seconds / (time.perf_counter() - began)))


def main(directory: str, file_bytes: int, rounds: int, hashings: int) -> None:
    names = sorted(os.listdir(directory))
    chance = random.Random(rounds)
    began = time.monotonic()
    for number in range(rounds):
        work(hashings)
        content = chance.randbytes(file_bytes)
        with open(os.path.join(directory, names[number % len(names)]), "r+b") as file:
            file.write(content)
    print(time.monotonic() - began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
