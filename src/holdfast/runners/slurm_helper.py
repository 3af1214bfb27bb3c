"""Small processes that finish on the login node what an agent began, also when it dies.

`Thaw` lets a stopped job go on as soon as whoever stopped it lets go, dies, or takes too
long. `end_after` has a job killed once its grace is over. Both are in a session
of their own, which no signal to the agent reaches; they keep trying while Slurm's
controller is away. They never start, stop or freeze anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_TRY: Final = """\
insist() {
    tries=0
    until said=$(timeout -s KILL 60 "$@" 2>&1); do
        case $said in
            *nvalid\\ job\\ id* | *lready\\ complet* | *not\\ be\\ altered*) return 0 ;;
        esac
        tries=$((tries + 1))
        [ "$tries" -lt 3600 ] || return 1
        sleep 1
    done
}
"""

_END: Final = (
    "trap '' HUP INT TERM\n"
    + _TRY
    + """\
{
insist scancel --state=PENDING "$1"
insist scancel --signal=CONT --full "$1"
insist scancel --signal=TERM --full "$1"
sleep "$2"
insist scancel "$1"
} &
"""
)


class Thaw:
    """Will send CONT to a job; `let_go` does so now.

    `marker` is a file that tells of the freeze; it is removed once CONT was sent. `lock` is
    the descriptor of a held lock, which is held until then, whatever becomes of the caller.
    """

    def __init__(
        self,
        job_id: int,
        at_most_seconds: float,
        *,
        marker: Path,
        lock: int,
        environment: dict[str, str],
    ) -> None:
        reading, self._writing = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "holdfast.runners.slurm_thaw"),
                    *(str(job_id), str(at_most_seconds), str(marker), str(os.getpid())),
                ],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(lock,),
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(self._writing)
            raise
        finally:
            os.close(reading)

    def settled(self) -> None:
        """Say that nothing stops any process of the job any more; the time counts from now."""
        self._say(b"settled\n")

    @property
    def waits(self) -> bool:
        """Whether the job has not been thawed yet."""
        return self._process.poll() is None

    def let_go(self, timeout_seconds: float) -> bool:
        """Have CONT sent; whether it was, within that time. Otherwise it is tried on."""
        # Said, not only closed: a process forked meanwhile may hold the pipe open.
        self._say(b"go\n")
        os.close(self._writing)
        try:
            return self._process.wait(timeout_seconds) == 0
        except subprocess.TimeoutExpired:
            return False

    def _say(self, line: bytes) -> None:
        with suppress(BrokenPipeError):
            os.write(self._writing, line)


def end_after(job_id: int, grace_seconds: float, *, environment: dict[str, str]) -> None:
    """Have a job asked to end now, and ended by Slurm after the grace."""
    subprocess.run(
        ["/bin/sh", "-c", _END, "sh", str(job_id), str(grace_seconds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        start_new_session=True,
        check=True,
    )
