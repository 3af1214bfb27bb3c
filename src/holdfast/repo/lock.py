"""Lock files as restic writes them, so that plain restic may work beside Holdfast.

A shared lock lets others read and write; an exclusive one keeps everybody out. Holdfast
adds a field ``holdfast`` with the purpose. Holdfast's own operations know which of them
are safe together (``docs/design/operations.md``) and look past each other's locks where
they are; restic does not know the field and sees plain locks. A lock is refreshed while
it is held, and is stale after 30 minutes. Source: restic's design document, "Locks".
"""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType

import orjson

from holdfast.errors import Damaged, HoldfastError, ObjectNotFound, RepositoryLocked
from holdfast.repo import rfc3339
from holdfast.repo.threads import wait_until_gone

STALE_AFTER = timedelta(minutes=30)
REFRESH_SECONDS = 300.0
SETTLE_SECONDS = 0.2
PRUNE = "prune"
"""Purpose of the two-phase prune: exclusive to restic, but not to the operations below."""
BESIDE_PRUNE = frozenset({"backup", "copy", "forget", "read", "restore", "verify"})
"""Purposes that are safe while a two-phase prune runs; see ``docs/design/operations.md``."""


@dataclass(frozen=True, slots=True)
class LockRecord:
    """One lock found in the repository. `purpose` is empty for restic's own."""

    id: str
    time: datetime
    exclusive: bool
    hostname: str
    username: str
    pid: int
    purpose: str
    since: datetime | None = None
    """When the holder began, for Holdfast's locks; `time` moves with every refresh."""

    @classmethod
    def from_json(cls, lock_id: str, text: bytes) -> LockRecord:
        try:
            document = orjson.loads(text)
            since = document.get("since")
            return cls(
                lock_id,
                rfc3339.to_datetime(document["time"]),
                bool(document.get("exclusive", False)),
                str(document.get("hostname", "")),
                str(document.get("username", "")),
                int(document.get("pid", 0)),
                str(document.get("holdfast", "")),
                None if since is None else rfc3339.to_datetime(since),
            )
        except (KeyError, ValueError, TypeError, AttributeError):
            raise Damaged(f"lock {lock_id[:8]} is not a lock document") from None

    def is_stale(self, now: datetime) -> bool:
        """Whether its holder is certainly gone: too old, or a dead process of this machine."""
        if now - self.time > STALE_AFTER:
            return True
        if self.hostname != socket.gethostname() or self.pid <= 0:
            return False
        return _has_ended(self.pid)

    def describe(self) -> str:
        who = f"{self.username}@{self.hostname} (process {self.pid})"
        kind = "exclusively " if self.exclusive else ""
        what = f"by holdfast {self.purpose}" if self.purpose else "by restic"
        return f"locked {kind}{what} of {who} since {self.time:%Y-%m-%d %H:%M:%S %Z}"


class LockFiles:
    """What a lock needs of a repository: listing, reading, writing and removing lock files."""

    def __init__(
        self,
        names: Callable[[], list[str]],
        load: Callable[[str], bytes],
        save: Callable[[bytes], str],
        remove: Callable[[str], None],
    ) -> None:
        self.names, self.load, self.save, self.remove = names, load, save, remove

    def records(self) -> list[LockRecord]:
        """Return every readable lock; one that vanishes meanwhile is left out."""
        records = []
        for name in self.names():
            try:
                records.append(LockRecord.from_json(name, self.load(name)))
            except ObjectNotFound:
                continue
            except Damaged:
                # A half-written lock of a crashed program says nothing about who holds it.
                continue
        return records


class Lock:
    """A held lock: a context manager. `keep` refreshes it for as long as it is held.

    `tolerates` are the purposes of other Holdfast operations that may hold a lock at the
    same time although one of the two is exclusive.
    """

    def __init__(
        self,
        files: LockFiles,
        purpose: str,
        *,
        exclusive: bool = False,
        tolerates: frozenset[str] = frozenset(),
        wait_seconds: float = 0.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._files, self._purpose, self._exclusive = files, purpose, exclusive
        self._tolerates, self._wait_seconds = tolerates, wait_seconds
        self._clock, self._sleep = clock, sleep
        self._since = clock()
        self._id: str | None = None
        self._owner_pid = 0
        self._refreshed = seconds_since_boot()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lock:
        self._since = self._clock()
        deadline = time.monotonic() + self._wait_seconds
        while True:
            try:
                self._acquire()
                break
            except RepositoryLocked:
                if time.monotonic() >= deadline:
                    raise
                self._sleep(min(5.0, max(0.1, deadline - time.monotonic())))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def keep(self) -> Lock:
        """Refresh the lock from a thread until it is released.

        Apart from entering, because threads are started only after worker processes were
        forked.
        """
        self._thread = threading.Thread(target=self._refresh, name="lock-refresh", daemon=True)
        self._thread.start()
        return self

    def lapsed(self) -> bool:
        """Whether others may have taken the lock for stale, as after a long suspend."""
        return (
            seconds_since_boot() - self._refreshed > STALE_AFTER.total_seconds() - REFRESH_SECONDS
        )

    def release(self) -> None:
        """Give the lock back; a second call does nothing, nor does a forked child's."""
        if self._owner_pid != os.getpid():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
            if not self._thread.is_alive() and self._thread.native_id is not None:
                wait_until_gone([self._thread.native_id])
            self._thread = None
        self._withdraw()

    def _withdraw(self) -> None:
        """Remove the lock file. The refreshing is left alone, as a waiter tries again."""
        lock_id, self._id = self._id, None
        if lock_id is not None:
            with suppress(HoldfastError):  # it goes stale by itself where the store is gone
                self._files.remove(lock_id)

    def _acquire(self) -> None:
        self._check()
        self._id = self._files.save(self._document())
        self._refreshed = seconds_since_boot()
        self._owner_pid = os.getpid()
        try:
            others = [r for r in self._files.records() if r.id != self._id]
            if others:
                # Two that start together both see each other; the wait makes it certain.
                self._sleep(SETTLE_SECONDS)
            self._check()
        except BaseException:
            # Also where the store failed: nobody enters, so nobody would give the lock back.
            self._withdraw()
            raise

    def _check(self) -> None:
        now = self._clock()
        for record in self._files.records():
            if record.id == self._id:
                continue
            if record.is_stale(now):
                with suppress(HoldfastError):
                    self._files.remove(record.id)
                continue
            if not (self._exclusive or record.exclusive):
                continue
            if record.purpose and record.purpose in self._tolerates:
                continue
            raise RepositoryLocked(
                f"the repository is {record.describe()}. Wait for it, or remove a lock whose "
                "holder is gone with `holdfast unlock`"
            )

    def _document(self) -> bytes:
        try:
            username = getpass.getuser()
        except (KeyError, OSError):
            username = str(os.getuid())
        return orjson.dumps(
            {
                "time": self._clock().isoformat().replace("+00:00", "Z"),
                "exclusive": self._exclusive,
                "hostname": socket.gethostname(),
                "username": username,
                "pid": os.getpid(),
                "uid": os.getuid(),
                "gid": os.getgid(),
                "holdfast": self._purpose,
                "since": self._since.isoformat().replace("+00:00", "Z"),
            }
        )

    def _refresh(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            old = self._id
            with suppress(HoldfastError):
                self._id = self._files.save(self._document())
                self._refreshed = seconds_since_boot()
                if old is not None and old != self._id:
                    self._files.remove(old)


def _has_ended(pid: int) -> bool:
    """Whether no such process does anything any more."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no process has a number so large
        return True
    except PermissionError:
        return False
    # In a container nobody may ever ask how it ended; then its number stays taken.
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[:1] in ([b"Z"], [b"X"])
    return False


def seconds_since_boot() -> float:
    """Return a time that never steps and, unlike the monotonic clock, runs on in suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
