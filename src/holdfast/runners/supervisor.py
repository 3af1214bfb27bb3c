"""The small process that a local computation lives under; it outlives whoever started it.

Started as ``python -m holdfast.runners.supervisor READY`` with an order on its standard input, it
starts the command, says on the descriptor READY whether that worked, waits for the command and
for everything that it forks, and writes down how it ended. It holds a lock for as long as it
lives, which proves that somebody watches. On a socket in the place it takes orders, one message
each:

- ``{"do": "freeze", "seconds": s}``: hold the computation still until the connection is closed,
  by whatever death, and at most so long. Answer ``{"frozen": how}`` or ``{"refused": reason}``;
  ``{"thawed": reason}`` follows where it goes on before that.
- ``{"do": "thaw"}``, on the connection of a freeze: let it go on. Answer ``{"thawed": ""}``.
- ``{"do": "abort", "grace": s}``: SIGTERM to the command's process group, and after the grace
  SIGKILL to all of it. Answer ``{"aborting": true}``.

Invariants: when the record of the end is on disk, no process of the computation is left; the
command dies with the supervisor. It never reads what the command writes, and never uses the
network. It imports little, because there is one of it for each computation.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any, Final

from holdfast.runners import records
from holdfast.runners.cgroup import Cgroup
from holdfast.runners.freeze import Freezer
from holdfast.runners.launch import Failure, Launch, Order
from holdfast.runners.processes import boot_id, descendants, process

FREEZE_WITHIN_SECONDS: Final = 10.0
"""How long a freeze may take to come about."""

_STUCK_SECONDS: Final = 60.0
_LIMIT_GRACE_SECONDS: Final = 30.0
_STOPPED_GRACE_SECONDS: Final = 10.0
_ENDING_PAUSE_MS: Final = 10
_LOCK_TRIES: Final = 500
_LOCK_PAUSE_SECONDS: Final = 0.01
_MOST_MESSAGE_BYTES: Final = 4096
_PR_SET_CHILD_SUBREAPER: Final = 36


class Supervisor:
    """One computation, from its start to the record of its end."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._notes: list[dict[str, str]] = []
        self._cgroup: Cgroup | None = None
        self._command = 0
        self._status: int | None = None
        self._kill_at: float | None = None
        self._limit_at: float | None = None
        self._ended_at = 0.0
        self._stop_wanted = False
        self._holder: socket.socket | None = None
        self._thaw_at = 0.0
        self._freezer_life: int | None = None
        self._connections: dict[int, socket.socket] = {}
        self._poll = select.poll()

    def start(self) -> Failure | None:
        """Start the command; return why that was not possible, or None."""
        _become_subreaper()
        self._listen()
        # Both wake the poll: children that end, and whoever wants us to end.
        self._wakes, self._wake = os.pipe()
        for end in (self._wakes, self._wake):
            os.set_blocking(end, False)
        self._poll.register(self._wakes, select.POLLIN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._want_stop)
        signal.signal(signal.SIGINT, self._want_stop)
        signal.set_wakeup_fd(self._wake)
        records.reserve(self._order.control("end.json"))
        if self._order.cgroup:
            self._cgroup = Cgroup.make(f"holdfast-{self._order.token}")
        failure = self._launch(namespaced=self._order.namespace)
        if failure is not None and failure.stage == "namespace":
            self._note(
                "job_not_mounted",
                f"/job cannot be mounted on this machine ({failure.message}); the command found "
                "its directory in HOLDFAST_JOB.",
            )
            failure = self._launch(namespaced=False)
        if failure is not None:
            self._forget()
            return failure
        self._freezer = Freezer(os.getpid(), self._cgroup)
        if self._order.limit_seconds is not None:
            self._limit_at = time.monotonic() + self._order.limit_seconds
        return None

    @property
    def reference(self) -> str:
        return str(self._command)

    def run(self) -> None:
        """Attend to it until it has ended and that is on disk."""
        while not self._has_ended():
            for descriptor, _ in self._poll.poll(self._wait_ms()):
                if descriptor == self._wakes:
                    with suppress(BlockingIOError):
                        os.read(self._wakes, 4096)
                elif descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._freezer_life:
                    self._thaw("")
                elif descriptor in self._connections:
                    self._hear(self._connections[descriptor])
            self._keep_time()
        self._record_end()

    # Start

    def _listen(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = self._order.control("socket")
        with suppress(FileNotFoundError):
            os.unlink(path)
        # A socket's path has 107 bytes at most, and a place may lie deeper.
        directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._listener.bind(f"/proc/self/fd/{directory}/socket")
        finally:
            os.close(directory)
        self._listener.listen()
        self._listener.settimeout(0)
        self._poll.register(self._listener, select.POLLIN)

    def _launch(self, *, namespaced: bool) -> Failure | None:
        launch = Launch(self._order, namespaced=namespaced)
        if self._cgroup is not None:
            try:
                self._cgroup.take(launch.pid)
            except OSError:
                self._cgroup.remove()
                self._cgroup = None
        began = process(launch.pid)
        records.write(
            self._order.control("state.json"),
            {
                "supervisor": os.getpid(),
                "command": launch.pid,
                "started": began.started if began is not None else 0,
                "boot": boot_id(),
                "token": self._order.token,
                "cgroup": self._cgroup.path if self._cgroup is not None else None,
                "started_at": time.time(),
                "notes": self._notes,
            },
        )
        failure = launch.let_go()
        if failure is not None:
            os.waitpid(launch.pid, 0)
        self._command = launch.pid
        return failure

    def _forget(self) -> None:
        for name in ("state.json", "end.json.reserved", "socket"):
            with suppress(FileNotFoundError):
                os.unlink(self._order.control(name))
        if self._cgroup is not None:
            self._cgroup.remove()

    # Time

    def _want_stop(self, *_: object) -> None:
        self._stop_wanted = True

    def _wait_ms(self) -> int | None:
        if self._status is not None:
            return _ENDING_PAUSE_MS
        times = [each for each in (self._kill_at, self._limit_at) if each is not None]
        if self._holder is not None:
            times.append(self._thaw_at)
        if not times:
            return None
        return max(0, int((min(times) - time.monotonic()) * 1000) + 1)

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._holder is not None and now >= self._thaw_at:
            self._thaw("the time of the freeze was over")
        if self._stop_wanted:
            self._stop_wanted = False
            self._note("supervisor_stopped", "The machine or a person stopped the computation.")
            self._abort(_STOPPED_GRACE_SECONDS)
        if self._limit_at is not None and now >= self._limit_at:
            self._limit_at = None
            self._note("limit_kept_late", "The time limit was kept by the runner, and so later.")
            self._abort(_LIMIT_GRACE_SECONDS)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            self._kill_all()

    # Orders

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            connection, _ = self._listener.accept()
            connection.settimeout(0)
            self._connections[connection.fileno()] = connection
            self._poll.register(connection, select.POLLIN)

    def _hear(self, connection: socket.socket) -> None:
        try:
            said = connection.recv(_MOST_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._hang_up(connection)
            return
        try:
            order = json.loads(said)
            self._obey(connection, order)
        except (ValueError, KeyError, TypeError) as error:
            _tell(connection, {"refused": f"not an order: {error}"})

    def _obey(self, connection: socket.socket, order: dict[str, Any]) -> None:
        if order["do"] == "freeze":
            self._freeze(connection, float(order["seconds"]))
        elif order["do"] == "thaw":
            if connection is self._holder:
                self._thaw("")
            else:
                _tell(connection, {"refused": "it is not held still for you"})
        elif order["do"] == "abort":
            self._abort(float(order["grace"]))
            _tell(connection, {"aborting": True})
        else:
            _tell(connection, {"refused": f"there is no order {order['do']!r}"})

    def _freeze(self, connection: socket.socket, seconds: float) -> None:
        if self._status is not None or self._kill_at is not None:
            _tell(connection, {"refused": "the computation is ending"})
        elif self._holder is not None:
            _tell(connection, {"refused": "it is frozen for somebody else"})
        elif not self._freezer.freeze(FREEZE_WITHIN_SECONDS):
            _tell(connection, {"refused": "some of its processes did not stand still in time"})
        else:
            self._holder, self._thaw_at = connection, time.monotonic() + seconds
            # The connection alone does not tell of the freezer's death where a process that
            # the freezer has forked has it open too.
            self._freezer_life = _life_of(connection)
            if self._freezer_life is not None:
                self._poll.register(self._freezer_life, select.POLLIN)
            _tell(connection, {"frozen": self._freezer.how})

    def _thaw(self, reason: str) -> None:
        if self._holder is not None:
            holder, self._holder = self._holder, None
            if reason:
                # Before anything moves: who finds that it was not told has read what stood still.
                _tell(holder, {"thawed": reason})
            self._freezer.thaw()
            if self._freezer_life is not None:
                self._poll.unregister(self._freezer_life)
                os.close(self._freezer_life)
                self._freezer_life = None
            if not reason:
                _tell(holder, {"thawed": ""})

    def _hang_up(self, connection: socket.socket) -> None:
        if connection is self._holder:
            self._thaw("")
        self._poll.unregister(connection)
        del self._connections[connection.fileno()]
        connection.close()

    # The end

    def _abort(self, grace_seconds: float) -> None:
        self._thaw("the computation is ended")
        with suppress(ProcessLookupError, PermissionError):
            if self._status is None:
                os.killpg(self._command, signal.SIGTERM)
        kill_at = time.monotonic() + grace_seconds
        self._kill_at = kill_at if self._kill_at is None else min(kill_at, self._kill_at)

    def _kill_all(self) -> None:
        if self._cgroup is not None:
            self._cgroup.kill()
        for each in descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(each.pid, signal.SIGKILL)

    def _has_ended(self) -> bool:
        """Whether the command has ended, and everything that it left behind."""
        childless = self._reap()
        if self._status is None:
            return False
        if not self._ended_at:
            self._ended_at = time.monotonic()
            self._thaw("the computation has ended")
        if childless:
            return True
        self._kill_all()
        if time.monotonic() - self._ended_at > _STUCK_SECONDS:
            self._note(
                "process_stuck",
                "A process that the command left behind could not be killed: it hangs in the "
                "kernel, or belongs to another user.",
            )
            return True
        return False

    def _reap(self) -> bool:
        """Ask every child that has ended how; return whether there is none left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self._command:
                self._status = status

    def _record_end(self) -> None:
        assert self._status is not None
        for name in ("stdout", "stderr"):
            with suppress(OSError):
                _flush(os.path.join(self._order.place, name))
        code = os.waitstatus_to_exitcode(self._status)
        records.write(
            self._order.control("end.json"),
            {
                "exit_code": code if code >= 0 else 128 - code,
                "ended_at": time.time(),
                "notes": self._notes,
            },
        )
        with suppress(FileNotFoundError):
            os.unlink(self._order.control("socket"))
        if self._cgroup is not None:
            self._cgroup.remove()

    def _note(self, code: str, message: str) -> None:
        self._notes.append({"code": code, "message": message, "subject": ""})


def _tell(connection: socket.socket, document: dict[str, Any]) -> None:
    with suppress(OSError):  # nobody is there any more, or does not listen
        connection.send(json.dumps(document).encode())


def _life_of(connection: socket.socket) -> int | None:
    """A descriptor that is readable once the process at the other end has ended."""
    form = struct.Struct("3i")
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    pid: int = form.unpack(said)[0]
    try:
        return os.pidfd_open(pid) if pid else None
    except OSError:
        return None


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _become_subreaper() -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def _take_lock(path: str) -> int | None:
    """The proof that this process lives; None where another one has given it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_LOCK_TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        time.sleep(_LOCK_PAUSE_SECONDS)  # somebody may only look whether it is taken
    os.close(descriptor)
    return None


def _supervise(order: Order, ready: int) -> int:
    lock = _take_lock(order.control("lock"))
    if lock is None or os.path.exists(order.control("state.json")):
        _answer(ready, {"taken": True})
        return 0
    supervisor = Supervisor(order)
    failure = supervisor.start()
    if failure is not None:
        os.close(lock)  # before it is told: whoever hears of it finds nothing running
        _answer(ready, failure._asdict())
        return 1
    _answer(ready, {"reference": supervisor.reference})
    supervisor.run()
    return 0


def _answer(ready: int, document: dict[str, Any]) -> None:
    with suppress(OSError):  # whoever has started us was killed
        os.write(ready, json.dumps(document).encode())
    os.close(ready)


def main(arguments: list[str]) -> int:
    ready = int(arguments[0])
    fcntl.fcntl(ready, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    order = Order(**json.load(sys.stdin.buffer))
    # Whoever starts us waits for this process, not for the one that goes on.
    if os.fork() != 0:
        return 0
    os.umask(0o022)
    os.chdir("/")
    return _supervise(order, ready)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
