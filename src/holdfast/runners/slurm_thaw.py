"""The program that lets a stopped Slurm job go on, whatever becomes of who stopped it.

``python -m holdfast.runners.slurm_thaw JOB SECONDS MARKER HOLDER`` reads lines from its standard
input: ``settled`` (nothing stops processes any more; the seconds count from there) and ``go``.
It sends CONT after ``go``, after the seconds, at the end of its input, and as soon as the
process HOLDER, its parent, is dead: another process may hold the pipe open. It keeps trying
while Slurm's controller is away, and removes the marker when it is done. It imports nothing of
Holdfast, so that it is there quickly.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

_SETTLE_SECONDS = 30.0
_AGAIN_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_TRIES = 3600
_OVER = ("invalid job id", "already complet", "can not be altered")


def hear(seconds: float, holder: int, heard: bytes = b"") -> bytes | None:
    """What was heard when another line had come; None where nobody will say more."""
    lines, deadline = heard.count(b"\n"), time.monotonic() + seconds
    while heard.count(b"\n") == lines:
        left = deadline - time.monotonic()
        if left <= 0 or os.getppid() != holder:
            return None
        if select.select([0], [], [], min(left, _LOOK_SECONDS))[0]:
            more = os.read(0, 64)
            if not more:
                return None
            heard += more
    return heard


def go_on(job_id: str) -> bool:
    """Have Slurm send CONT; whether it did, or the job needs none any more."""
    for _ in range(_TRIES):
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                ["scancel", "--signal=CONT", "--full", job_id],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            if done.returncode == 0 or any(words in done.stderr.lower() for words in _OVER):
                return True
        time.sleep(1.0)
    return False


def main(job_id: str, seconds: str, marker: str, holder: str) -> int:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    heard = hear(_SETTLE_SECONDS, int(holder))
    if heard is not None and heard.startswith(b"settled\n"):
        if b"go\n" not in heard:
            hear(float(seconds), int(holder), heard)
    else:
        # Something of the holder's may still be stopping processes, but not for long.
        go_on(job_id)
        time.sleep(_AGAIN_SECONDS)
    if not go_on(job_id):
        return 1
    with suppress(FileNotFoundError):
        os.unlink(marker)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
