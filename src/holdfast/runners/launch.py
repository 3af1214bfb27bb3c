"""From the supervisor's fork to the command's first instruction.

The new process waits until the supervisor has noted it down, then takes its place: a session
of its own, ``/job``, another user where asked for, the output files, and the promise of the
kernel that it ends with the supervisor. What fails on the way is told through a pipe that the
command never sees. Imported by the supervisor, which is to stay small.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from typing import Any, Final, NamedTuple, NoReturn

from holdfast.runners import namespace

_PR_SET_PDEATHSIG: Final = 1
_MOST_MESSAGE_BYTES: Final = 65536

_libc = ctypes.CDLL(None, use_errno=True)


class Order(NamedTuple):
    """What to launch, as `LocalRunner` writes it; `place` is the path of the place's root.

    `base` is what every command finds in its environment, `environment` what this one was
    given; what comes from its user lies between the two.
    """

    place: str
    argv: list[str]
    base: dict[str, str]
    environment: dict[str, str]
    user: str | None
    workdir: str | None
    limit_seconds: float | None
    namespace: bool
    cgroup: bool
    token: str

    @property
    def job(self) -> str:
        return os.path.join(self.place, "job")

    def control(self, name: str) -> str:
        return os.path.join(self.place, "runner", name)


class Failure(NamedTuple):
    """Why no command runs: `stage` is namespace, user, workdir or command."""

    stage: str
    message: str


class Launch:
    """One process that waits to become the command; then either `let_go` or nothing."""

    def __init__(self, order: Order, *, namespaced: bool) -> None:
        self._order, self._namespaced = order, namespaced
        self._supervisor = os.getpid()
        wait, self._go = os.pipe()
        self._trouble, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(wait, tell)
        os.close(wait)
        os.close(tell)

    def let_go(self) -> Failure | None:
        """Have it become the command; return what prevented that, or None."""
        os.write(self._go, b"g")
        os.close(self._go)
        with os.fdopen(self._trouble, "rb") as pipe:
            said = pipe.read(_MOST_MESSAGE_BYTES)
        return Failure(**json.loads(said)) if said else None

    # In the new process

    def _become(self, wait: int, tell: int) -> NoReturn:
        stage = "command"
        try:
            os.close(self._go)
            os.setsid()
            if os.read(wait, 1) != b"g":
                os._exit(127)  # the supervisor has ended, so nobody knows of this process
            order = self._order
            outputs = self._open_outputs()
            environment = dict(order.base)
            stage = "user"
            user = _user(order.user)
            if user is not None:
                environment.update(HOME=user["home"], USER=user["name"], LOGNAME=user["name"])
                for given in (order.job, *outputs):
                    os.chown(given, user["uid"], user["gid"])
            environment.update(order.environment)
            stage = "namespace"
            job = order.job
            if self._namespaced:
                namespace.enter(order.job, order.control("root"))
                job = namespace.JOB
            stage = "user"
            if user is not None:
                os.initgroups(user["name"], user["gid"])
                os.setgid(user["gid"])
                os.setuid(user["uid"])
            stage = "workdir"
            os.chdir(job)
            if order.workdir:
                os.chdir(_within(job, order.workdir))
            environment.update(
                {"HOLDFAST_JOB": job, "PWD": os.getcwd(), "HOLDFAST_RUN": order.token}
            )
            stage = "command"
            self._take_outputs(outputs)
            for number in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            # Last, since a change of user takes it back.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._supervisor:
                os._exit(127)
            os.execvpe(order.argv[0], order.argv, environment)  # noqa: S606
        except (OSError, LookupError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            os.write(tell, json.dumps({"stage": stage, "message": reason}).encode())
        finally:
            os._exit(127)

    def _open_outputs(self) -> tuple[int, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        place = self._order.place
        return (
            os.open(os.path.join(place, "stdout"), flags, 0o600),
            os.open(os.path.join(place, "stderr"), flags, 0o600),
        )

    @staticmethod
    def _take_outputs(outputs: tuple[int, int]) -> None:
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(nothing, 0)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)


def _user(wanted: str | None) -> dict[str, Any] | None:
    """Who to become; None where nobody else is asked for."""
    if wanted is None:
        return None
    import pwd

    try:
        found = pwd.getpwuid(int(wanted)) if wanted.isdigit() else pwd.getpwnam(wanted)
    except KeyError:
        raise LookupError(f"there is no user {wanted} on this machine") from None
    if found.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise LookupError(f"only root can run a command as {wanted}")
    return {
        "uid": found.pw_uid,
        "gid": found.pw_gid,
        "name": found.pw_name,
        "home": found.pw_dir,
    }


def _within(job: str, workdir: str) -> str:
    """Where a working directory lies; one below ``/job`` is meant wherever that is."""
    if workdir == namespace.JOB or workdir.startswith(namespace.JOB + "/"):
        workdir = os.path.relpath(workdir, namespace.JOB)
    return os.path.join(job, workdir)
