"""Locks: who excludes whom, who is gone, and who gives back what."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sample_repository import make, reopen, replace

from holdfast.errors import Damaged, HoldfastError, RepositoryLocked, StoreUnavailable
from holdfast.repo import lock as locks
from holdfast.repo.lock import BESIDE_PRUNE, PRUNE, STALE_AFTER, Lock, LockFiles, LockRecord
from holdfast.repo.repository import FileKind, Repository
from holdfast.store.faults import Call, Fault, FaultyStore, fail_before

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def files() -> LockFiles:
    return make().lock_files()


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.0)


def lock(files: LockFiles, purpose: str = "backup", **more: Any) -> Lock:
    return Lock(files, purpose, **more)


def plant(files: LockFiles, **fields: object) -> str:
    """A lock as restic writes it, of another machine and just now, but for `fields`."""
    document = {
        "time": datetime.now(UTC).isoformat(),
        "exclusive": True,
        "hostname": "elsewhere",
        "username": "root",
        "pid": 1,
    }
    return files.save(orjson.dumps(document | fields))


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_shared_locks_stand_beside_one_another_and_go(files: LockFiles) -> None:
    with lock(files), lock(files, "verify"), lock(files):
        assert {record.purpose for record in files.records()} == {"backup", "verify"}
        assert len(files.names()) == 3
    assert files.names() == []


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True)])
def test_an_exclusive_lock_excludes(files: LockFiles, first: bool, second: bool) -> None:
    with lock(files, "repair", exclusive=first):
        held = files.names()
        with pytest.raises(RepositoryLocked, match=r"by holdfast repair of .*holdfast unlock"):
            lock(files, exclusive=second).__enter__()
        assert files.names() == held
    with lock(files, exclusive=second):
        assert len(files.names()) == 1


def test_what_a_lock_says_of_its_holder(files: LockFiles) -> None:
    with lock(files, "copy", clock=lambda: NOW):
        (record,) = files.records()
    assert (record.time, record.since, record.exclusive) == (NOW, NOW, False)
    assert (record.hostname, record.pid) == (socket.gethostname(), os.getpid())
    assert record.purpose == "copy"
    assert "by holdfast copy" in record.describe()
    assert "2030-01-01 00:00:00 UTC" in record.describe()


def test_a_lock_of_restic_is_understood(files: LockFiles) -> None:
    plant(files, time="2030-01-01T02:00:00.123456789+02:00", uid=0, gid=0)
    (record,) = files.records()
    assert record.time == NOW + timedelta(microseconds=123_456)
    assert record.since is None
    assert "exclusively by restic of root@elsewhere" in record.describe()


@pytest.mark.parametrize("age", [timedelta(0), STALE_AFTER, timedelta(days=-1)])
def test_a_lock_of_another_machine_counts_until_it_is_old(files: LockFiles, age: timedelta) -> None:
    name = plant(files, time=(NOW - age).isoformat(), pid=dead_pid())
    with pytest.raises(RepositoryLocked):
        lock(files, clock=lambda: NOW).__enter__()
    assert files.names() == [name]


def test_an_old_lock_is_stale_and_goes(files: LockFiles) -> None:
    plant(files, time=(NOW - STALE_AFTER - timedelta(seconds=1)).isoformat())
    with lock(files, exclusive=True, clock=lambda: NOW):
        assert len(files.names()) == 1


@pytest.mark.parametrize("pid", ["dead", 1 << 40])
def test_a_lock_of_a_dead_process_of_this_machine_is_stale(
    files: LockFiles, pid: str | int
) -> None:
    plant(files, hostname=socket.gethostname(), pid=dead_pid() if pid == "dead" else pid)
    with lock(files, exclusive=True):
        assert len(files.names()) == 1


def test_a_process_that_nobody_has_asked_how_it_ended_is_dead(files: LockFiles) -> None:
    """As in a container, where nobody may ever ask."""
    process = subprocess.Popen(["/bin/true"])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        plant(files, hostname=socket.gethostname(), pid=process.pid)
        with lock(files, exclusive=True):
            assert len(files.names()) == 1
    finally:
        process.wait()


@pytest.mark.parametrize("pid", [os.getppid(), 1, 0, -1], ids=["parent", "init", "none", "odd"])
def test_a_lock_of_a_living_or_unnamed_process_counts(files: LockFiles, pid: int) -> None:
    plant(files, hostname=socket.gethostname(), pid=pid)
    with pytest.raises(RepositoryLocked):
        lock(files).__enter__()


@pytest.mark.parametrize(
    ("purpose", "works"), [(PRUNE, True), ("repair", False), ("", False), ("prune now", False)]
)
def test_only_tolerated_purposes_are_looked_past(
    files: LockFiles, purpose: str, works: bool
) -> None:
    plant(files, holdfast=purpose)
    tolerant = lock(files, tolerates=frozenset({PRUNE}))
    if works:
        with tolerant:
            assert len(files.names()) == 2
    else:
        with pytest.raises(RepositoryLocked):
            tolerant.__enter__()


def test_toleration_works_in_both_directions(files: LockFiles) -> None:
    beside = lock(files, "backup", tolerates=frozenset({PRUNE}))
    with lock(files, PRUNE, exclusive=True, tolerates=BESIDE_PRUNE), beside:
        assert len(files.names()) == 2
    with (
        lock(files, "backup", tolerates=frozenset({PRUNE})),
        lock(files, PRUNE, exclusive=True, tolerates=BESIDE_PRUNE),
    ):
        assert len(files.names()) == 2


@pytest.mark.parametrize(
    "text",
    [b"[]", b"{}", b'{"time":5}', b'{"time":"now"}', b'{"time":"2030-01-01T00:00:00Z","pid":"x"}',
     b'{"time":"2030-01-01T00:00:00Z","since":5}', b'[{"time":"2030-01-01T00:00:00Z"}]'],
)  # fmt: skip
def test_an_unreadable_lock_hinders_nobody_and_stays(files: LockFiles, text: bytes) -> None:
    with pytest.raises(Damaged, match="lock abababab is not a lock document"):
        LockRecord.from_json("ab" * 32, text)
    name = files.save(text)
    with lock(files, exclusive=True):
        assert len(files.records()) == 1
    assert files.names() == [name]


def test_a_lock_file_of_damaged_bytes_hinders_nobody() -> None:
    repository = make()
    name = plant(repository.lock_files())
    replace(repository.store, f"locks/{name}", b"half a lock")
    with repository.lock("repair", exclusive=True):
        pass


def test_a_lock_that_vanishes_between_listing_and_reading_is_left_out(files: LockFiles) -> None:
    names = [*files.names(), "cd" * 32]
    assert LockFiles(lambda: names, files.load, files.save, files.remove).records() == []


def test_a_refresh_replaces_the_file_and_keeps_when_it_began(
    files: LockFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "REFRESH_SECONDS", 0.005)
    refreshed = threading.Event()
    saved: list[bytes] = []

    def save(document: bytes) -> str:
        saved.append(document)
        if len(saved) >= 4:
            refreshed.set()
        return files.save(document)

    watched = LockFiles(files.names, files.load, save, files.remove)
    times = iter([NOW, NOW] + [NOW + timedelta(minutes=n) for n in range(10_000)])
    with lock(watched, clock=lambda: next(times)) as held:
        (first,) = files.names()
        held.keep()
        assert refreshed.wait(60)
        now = files.names()
        assert first not in now
        assert now, "the new file is there before the old one goes"
    assert files.names() == []
    records = [LockRecord.from_json("ab" * 32, text) for text in saved]
    assert {record.since for record in records} == {NOW}
    assert len({record.time for record in records}) == len(records)
    assert [r.time for r in records] == sorted(r.time for r in records)


def test_a_refresh_that_fails_leaves_the_old_lock(
    files: LockFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "REFRESH_SECONDS", 0.005)
    tried = threading.Event()
    saved: list[str] = []

    def save(document: bytes) -> str:
        if saved:
            tried.set()
            raise StoreUnavailable("away")
        saved.append(files.save(document))
        return saved[0]

    with lock(LockFiles(files.names, files.load, save, files.remove)) as held:
        held.keep()
        assert tried.wait(60)
        assert files.names() == saved
    assert files.names() == []


def test_a_lock_lapses_when_nothing_refreshed_it(
    files: LockFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 1000.0
    monkeypatch.setattr(locks, "seconds_since_boot", lambda: moment)
    with lock(files) as held:
        assert not held.lapsed()
        moment += STALE_AFTER.total_seconds() - locks.REFRESH_SECONDS
        assert not held.lapsed()
        moment += 1
        assert held.lapsed()
    with held:
        assert not held.lapsed()


def test_release_by_a_forked_child_does_nothing(files: LockFiles) -> None:
    # The memory is the child's own copy, so the child says what it sees there.
    with lock(files) as held:
        child = os.fork()
        if not child:
            status = 9
            try:
                held.release()
                status = len(files.names())
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert len(files.names()) == 1
    held.release()
    assert files.names() == []


def test_a_lock_that_was_never_entered_releases_nothing(files: LockFiles) -> None:
    name = plant(files)
    lock(files).release()
    assert files.names() == [name]


def together(*held: Lock) -> list[Lock | HoldfastError]:
    """Enter all at the same time, and say what became of each."""
    barrier, outcomes = threading.Barrier(len(held)), dict[int, Lock | HoldfastError]()

    def enter(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = held[number].__enter__()
        except HoldfastError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=enter, args=(n,)) for n in range(len(held))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[number] for number in range(len(held))]


def test_of_two_that_start_together_at_most_one_is_exclusive(files: LockFiles) -> None:
    for _ in range(30):
        outcomes = together(lock(files, exclusive=True), lock(files, exclusive=True))
        won = [outcome for outcome in outcomes if isinstance(outcome, Lock)]
        assert len(won) <= 1
        assert all(isinstance(each, Lock | RepositoryLocked) for each in outcomes)
        assert len(files.names()) == len(won), "a loser left its lock"
        for each in won:
            each.release()


class Interleaved:
    """Runs `act` when the first lock file is about to be written: between check and save."""

    def __init__(self, files: LockFiles, act: Callable[[], object]) -> None:
        self._files, self._act, self._ran = files, act, False

    def files(self) -> LockFiles:
        return LockFiles(self._files.names, self._files.load, self._save, self._files.remove)

    def _save(self, document: bytes) -> str:
        if not self._ran:
            self._ran = True
            self._act()
        return self._files.save(document)


def test_one_that_locks_between_the_others_check_and_file_is_seen(files: LockFiles) -> None:
    other = lock(files, "repair", exclusive=True)
    late = lock(Interleaved(files, other.__enter__).files())
    with pytest.raises(RepositoryLocked):
        late.__enter__()
    assert [record.purpose for record in files.records()] == ["repair"]
    other.release()


def test_a_waiter_enters_when_the_holder_goes(files: LockFiles) -> None:
    other = lock(files, "repair", exclusive=True)
    with other:
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            other.release()

        with lock(files, wait_seconds=60, sleep=sleep):
            assert [record.purpose for record in files.records()] == ["backup"]
    assert slept == [5.0]


def test_a_waiter_that_withdrew_once_still_refreshes_later(
    files: LockFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first attempt is refused after its own lock file is written."""
    monkeypatch.setattr(locks, "REFRESH_SECONDS", 0.005)
    other = lock(files, "repair", exclusive=True)
    refreshed = threading.Event()
    interleaved = Interleaved(files, other.__enter__).files()
    entered: list[bool] = []

    def save(document: bytes) -> str:
        if entered:
            refreshed.set()
        return interleaved.save(document)

    watched = LockFiles(files.names, files.load, save, files.remove)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if seconds > 0:
            other.release()

    with lock(watched, wait_seconds=60, sleep=sleep) as held:
        entered.append(True)
        held.keep()
        assert refreshed.wait(60), "a lock that nobody refreshes goes stale"
    assert 5.0 in slept
    assert files.names() == []


def test_a_store_that_fails_while_locking_is_left_without_a_lock() -> None:
    repository = make()
    with repository.lock("verify"):
        failing = [False]

        def plan(call: Call) -> Fault | None:
            if call.method == "create":
                failing[0] = True
            strikes = failing[0] and call.method == "list"
            return fail_before(StoreUnavailable("away")) if strikes else None

        other = reopen(repository, FaultyStore(repository.store, plan))
        with pytest.raises(StoreUnavailable):
            other.lock("backup").__enter__()
        assert len(repository.ids(FileKind.LOCK)) == 1


def test_a_store_that_is_gone_at_the_end_does_not_hide_the_work(files: LockFiles) -> None:
    def remove(name: str) -> None:
        raise StoreUnavailable("away")

    with lock(LockFiles(files.names, files.load, files.save, remove)):
        pass
    assert len(files.names()) == 1


def test_a_repository_gives_locks_that_see_each_other() -> None:
    one = make()
    two: Repository = reopen(one)
    with one.lock("repair", exclusive=True), pytest.raises(RepositoryLocked):
        two.lock("backup", tolerates={PRUNE}).__enter__()
