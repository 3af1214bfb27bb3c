"""The agent: a heartbeat, a loop that claims jobs, and the jobs that run.

It runs for days: whatever the server does, it pauses and asks again; only a refused
credential and a wish to stop end it. Invariants: ends that a predecessor could not report
are reported before anything is claimed, because a claim gives its leases back; there is one
agent on a state directory; no child outlives it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import FrameType
from typing import Any, Final

import structlog

from holdfast import __version__
from holdfast.agent import drill_scratch
from holdfast.agent.client import ControlClient
from holdfast.agent.credential import Credential, read_credential
from holdfast.agent.delivery import deliver
from holdfast.agent.inventory import Inventory
from holdfast.agent.pauses import Pauses
from holdfast.agent.room import TASK_KIND, Room
from holdfast.agent.running_job import ChildOrder, RunningJob, boot_seconds
from holdfast.agent.settings import DEFAULT_ROOTS, AgentSettings
from holdfast.agent.spool import Spool
from holdfast.agent.task_sweep import TaskSweep, unfinished_computations
from holdfast.errors import (
    Forbidden,
    HoldfastError,
    Interrupted,
    InUse,
    NotSignedIn,
    UsageError,
)

CLAIM_WAIT_SECONDS: Final = 25
_SHORT_CLAIM_SECONDS: Final = 5
_HEARTBEAT_SECONDS: Final = 15.0
_FIRST_LOOK_SECONDS: Final = 5.0
_REFUSALS: Final = 3
_LEAVE_SECONDS: Final = 10.0
_SWEEP_SECONDS: Final = 60.0
_MOST_COMPUTATIONS: Final = 1000
_PR_SET_PDEATHSIG: Final = 1
_MOST_WORKERS: Final = 8

_log = structlog.get_logger("holdfast.agent")


class Agent:
    """One agent. `run` returns when `stop` was called, or raises what ended it."""

    def __init__(
        self,
        settings: AgentSettings,
        credential: Credential,
        client: ControlClient,
        *,
        ca_certificate: str | None = None,
    ) -> None:
        self.instance = str(uuid.uuid4())
        self._settings, self._client = settings, client
        self._spool = Spool(os.path.join(settings.state_directory, "spool"))
        self._inventory = Inventory(
            settings.roots, task_slots=settings.task_slots, runners=settings.runners
        )
        self._seen: dict[str, Any] | None = None
        self._computations: list[str] = []
        self._forsaken: set[str] = set()
        self._looked = threading.Event()
        self._order = ChildOrder(_host(settings, ca_certificate), credential.secret)
        self._whole = Room(settings.max_jobs, settings.task_slots)
        self._jobs: dict[str, RunningJob] = {}
        self._unreported: dict[str, int] = {}
        self._free = threading.Condition()
        self._stopping = threading.Event()
        self._drill_ended = threading.Event()
        self._failure: HoldfastError | None = None
        self._heard_since: datetime | None = None

    def run(self) -> None:
        """Work until told to stop."""
        threads = [
            threading.Thread(target=self._guarded, args=(act,), name=name, daemon=True)
            for name, act in (
                ("inventory", self._look_around),
                ("heartbeat", self._beat),
                ("claim", self._work),
                ("sweep", self._sweep),
                ("drills", self._sweep_drills),
            )
        ]
        for thread in threads:
            thread.start()
        self._stopping.wait()
        self._leave()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End soon: jobs are stopped and will be done again."""
        self._stopping.set()
        self._drill_ended.set()
        with self._free:
            self._free.notify_all()

    def _fail(self, error: HoldfastError) -> None:
        self._failure = self._failure or error
        self.stop()

    def _guarded(self, act: Any) -> None:
        try:
            act()
        except HoldfastError as error:
            self._fail(error)
        except Exception as error:
            # Without one of its threads an agent only looks alive; a supervisor starts it anew.
            _log.exception("agent thread failed")
            self._fail(Interrupted(f"the agent failed: unexpected {type(error).__name__}: {error}"))

    # Heartbeat

    def _look_around(self) -> None:
        # Apart from the heartbeat: a file server that hangs must not make the host silent.
        while True:
            with self._free:
                count = len(self._jobs)
                tasks = sum(each.job.kind == TASK_KIND for each in self._jobs.values())
            self._computations = unfinished_computations(self._settings.tasks)
            self._seen = self._inventory.document(count, tasks)
            self._looked.set()
            if self._stopping.wait(_HEARTBEAT_SECONDS):
                return

    def _beat(self) -> None:
        self._looked.wait(_FIRST_LOOK_SECONDS)
        pauses = Pauses(_HEARTBEAT_SECONDS / 3, _HEARTBEAT_SECONDS)
        refusals = 0
        pause = 0.0
        while not self._stopping.wait(pause):
            with self._free:
                running = {**self._unreported, **{k: v.job.attempt for k, v in self._jobs.items()}}
            try:
                beat = self._client.heartbeat(
                    self.instance,
                    inventory=self._seen or {},
                    running=[{"job_id": k, "attempt": v} for k, v in sorted(running.items())],
                    computations=self._computations[:_MOST_COMPUTATIONS],
                )
            except HoldfastError as error:
                self._heard_since = None
                refusals = self._refused(error, refusals)
                _log.warning("heartbeat not heard", reason=error.message)
                pause = pauses.next(getattr(error, "retry_after_seconds", 0.0))
                continue
            refusals = 0
            self._heard_since = self._heard_since or datetime.now(UTC)
            pauses.reset()
            pause = max(1.0, beat.interval_seconds)
            with self._free:
                unwanted = [self._jobs[name] for name in beat.stop if name in self._jobs]
                # Whoever attends one ends it; the others have nobody.
                self._forsaken = set(beat.forsaken) - {*self._unreported, *self._jobs}
                if self._forsaken:
                    self._free.notify_all()
            for job in unwanted:
                job.cancel()

    def _sweep(self) -> None:
        # Apart from everything else: a large directory takes long to remove.
        sweep = TaskSweep(self._settings.tasks, self._settings.runners)
        while True:
            with self._free:
                self._free.wait_for(
                    lambda: self._stopping.is_set() or bool(self._forsaken), _SWEEP_SECONDS
                )
                if self._stopping.is_set():
                    return
                running = {*self._unreported, *self._jobs}
                forsaken, self._forsaken = self._forsaken - running, set()
            if forsaken:
                sweep.end(forsaken)
            sweep.sweep(datetime.now(UTC), running=running, heard_since=self._heard_since)

    def _sweep_drills(self) -> None:
        # At the start and after each drill, too: what was killed may hold much room.
        while True:
            self._drill_ended.clear()
            if self._stopping.is_set():
                return
            drill_scratch.sweep(self._settings.drills)
            self._drill_ended.wait(drill_scratch.SWEEP_SECONDS)

    # Claiming

    def _work(self) -> None:
        if not self._report_the_past():
            return
        pauses = Pauses(1.0, 60.0)
        refusals = 0
        while (room := self._wait_for_room()) is not None:
            asked_at = boot_seconds()
            # Where one kind has no place, that may change before the wait is over.
            seconds = CLAIM_WAIT_SECONDS
            if room.lacks_some(self._whole):
                seconds = _SHORT_CLAIM_SECONDS
            try:
                job = self._client.claim(self.instance, seconds, room.as_dict())
            except HoldfastError as error:
                refusals = self._refused(error, refusals)
                _log.warning("claim not heard", reason=error.message)
                pause = pauses.next(getattr(error, "retry_after_seconds", 0.0))
                if self._stopping.wait(pause):
                    return
                continue
            refusals = 0
            pauses.reset()
            if job is None:
                if boot_seconds() - asked_at < 1:
                    # A server that does not wait must not be asked a thousand times a second.
                    self._stopping.wait(1.0)
                continue
            self._start(
                RunningJob(
                    job,
                    # The lease cannot have begun before, and must not be thought to end later.
                    claimed_at=asked_at,
                    client=self._client,
                    spool=self._spool,
                    order=self._order,
                    grace_seconds=self._settings.cancel_grace_seconds,
                    on_end=self._ended,
                )
            )

    def _report_the_past(self) -> bool:
        """Report what a predecessor has left in the spool; False where there was no time."""
        reports = self._spool.reports()
        with self._free:
            self._unreported = {report.job_id: report.attempt for report in reports}
        for report in reports:
            _log.info("reporting an end from before", job_id=report.job_id)
            failure = deliver(report, self._client, self._spool, wait=self._stopping.wait)
            if failure is not None:
                if isinstance(failure, NotSignedIn):
                    raise failure
                return False
            with self._free:
                self._unreported.pop(report.job_id, None)
        return True

    def _wait_for_room(self) -> Room | None:
        """Wait until there is place for anything; None when the agent is to stop."""
        with self._free:
            self._free.wait_for(lambda: self._stopping.is_set() or bool(self._room()))
            return None if self._stopping.is_set() else self._room()

    def _room(self) -> Room:
        return self._whole.left_by(each.job.kind for each in self._jobs.values())

    def _start(self, job: RunningJob) -> None:
        with self._free:
            if self._stopping.is_set():
                return  # the next instance's claim gives the lease back
            before = self._jobs.get(job.job.id)
            self._jobs[job.job.id] = job
        if before is not None:
            # A later attempt of the same job: the one before has lost its lease.
            before.leave()
        job.start()

    def _ended(self, job: RunningJob) -> None:
        with self._free:
            if self._jobs.get(job.job.id) is job:
                del self._jobs[job.job.id]
            self._free.notify_all()
        if job.job.kind == drill_scratch.DRILL_KIND:
            self._drill_ended.set()

    def _refused(self, error: HoldfastError, refusals: int) -> int:
        """Count refusals of the credential; several in a row are the end."""
        if not isinstance(error, NotSignedIn | Forbidden):
            return 0
        if refusals + 1 >= _REFUSALS:
            raise type(error)(
                f"{error.message} The agent ends, because the server does not want it any more; "
                "to bring this host back, enrol it again with `holdfast agent enrol`."
            )
        return refusals + 1

    def _leave(self) -> None:
        """Stop the jobs and give their reports a moment; what is left is in the spool."""
        with self._free:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.leave()
        for job in jobs:
            job.join(self._settings.cancel_grace_seconds + _LEAVE_SECONDS)


def run(settings: AgentSettings, *, parent_pid: int | None = None) -> int:
    """Be this host's agent until SIGTERM or SIGINT; return 0 then.

    With `parent_pid` the agent ends with that process. Raises `NotSignedIn` where the host
    is not enrolled or was revoked, `InUse` where another agent works on the same state
    directory.
    """
    if parent_pid is not None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent_pid:
            return 0
    credential = read_credential(settings.credential)
    certificate = ca_certificate(settings)
    settings = replace(
        settings,
        server=settings.server or credential.server,
        name=settings.name or credential.name,
        roots=settings.roots or credential.roots or DEFAULT_ROOTS,
    )
    server = settings.server
    with only_agent(settings.state_directory):
        client = ControlClient(server, credential.secret, certificate)
        agent = Agent(settings, credential, client, ca_certificate=certificate)

        def stop(number: int, _frame: FrameType | None) -> None:
            # Not from here: the thread that is interrupted may hold what stopping needs.
            threading.Thread(target=agent.stop, name=f"signal-{number}", daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        _log.info(
            "agent begins",
            version=__version__,
            server=server,
            host_id=credential.host_id,
            instance=agent.instance,
            roots=[root.path for root in settings.roots],
            put_only=settings.put_only,
        )
        try:
            agent.run()
        finally:
            client.close()
        _log.info("agent ends")
    return 0


def ca_certificate(settings: AgentSettings) -> str | None:
    """The text of the certificate to trust besides the system's."""
    if not settings.ca_certificate_file:
        return None
    try:
        with open(settings.ca_certificate_file, encoding="ascii") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"The certificate {settings.ca_certificate_file} cannot be read; see the setting "
            "ca_certificate_file."
        ) from None


@contextmanager
def only_agent(state_directory: str) -> Iterator[None]:
    """Hold the state directory, or raise `InUse`; the kernel gives it back after a crash."""
    os.makedirs(state_directory, mode=0o700, exist_ok=True)
    path = os.path.join(state_directory, "lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"An agent works on {state_directory} already. Stop it first, or give this one "
                "a state_directory of its own."
            ) from None
        yield
    finally:
        os.close(descriptor)


def _host(settings: AgentSettings, certificate: str | None) -> Mapping[str, Any]:
    """What children are told about this host."""
    processors = len(os.sched_getaffinity(0))
    return {
        "name": settings.shown_name,
        "roots": [{"path": root.path, "directory": root.directory} for root in settings.roots],
        "put_only": settings.put_only,
        "workers": settings.workers or min(processors, _MOST_WORKERS),
        "state_directory": settings.state_directory,
        "cache_directory": settings.cache_directory,
        "task_directory": settings.tasks,
        "drill_directory": settings.drills,
        "podman": list(settings.podman),
        "podman_run": list(settings.podman_run),
        "ca_certificate": certificate,
        "limit_upload": settings.limit_upload,
        "limit_download": settings.limit_download,
    }
