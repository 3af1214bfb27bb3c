"""What is peculiar to `LocalStore`: layout, order of system calls, full and sick disks."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from holdfast.store.local import LocalStore

KEY = "data/ab/" + "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "repo"))


def keys(store: LocalStore) -> list[str]:
    return sorted(info.key for info in store.list(""))


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_key_is_a_path_as_in_restic(store: LocalStore, tmp_path: Path) -> None:
    for key in (KEY, "config", "keys/1", "snapshots/2", "index/3", "locks/4"):
        store.create(key, key.encode())
        assert (tmp_path / "repo" / key).read_bytes() == key.encode()
    assert files(tmp_path / "repo") == keys(store)


def test_files_are_read_only_and_directories_private(store: LocalStore, tmp_path: Path) -> None:
    store.create(KEY, b"x")
    assert stat.S_IMODE((tmp_path / "repo" / KEY).stat().st_mode) == 0o400
    for directory in ("", "data", "data/ab"):
        assert stat.S_IMODE((tmp_path / "repo" / directory).stat().st_mode) == 0o700


def test_a_group_that_may_read_the_config_may_read_the_rest(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_bytes(b"x")
    config.chmod(0o640)
    LocalStore(str(tmp_path)).create(KEY, b"x")
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o440
    assert stat.S_IMODE((tmp_path / KEY).parent.stat().st_mode) == 0o750


class Recorder:
    """Writes down the system calls that durability rests on, and lets them happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.acts: list[str] = []
        self._names: dict[int, str] = {}
        real_open, real_fsync = os.open, os.fsync

        def opened(path: str, flags: int, mode: int = 0o777) -> int:
            file = real_open(path, flags, mode)
            self._names[file] = os.path.basename(path)
            return file

        def synced(file: int) -> None:
            self.acts.append("fsync " + self._names[file].partition("-tmp-")[0])
            real_fsync(file)

        monkeypatch.setattr(os, "open", opened)
        monkeypatch.setattr(os, "fsync", synced)
        for name in ("mkdir", "link", "unlink"):
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def act(*arguments: Any) -> None:
            self.acts.append(f"{name} " + os.path.basename(arguments[-1 if name == "link" else 0]))
            real(*arguments)

        return act


def test_order_of_a_first_and_a_second_create(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(monkeypatch)
    store.create("data/ab/one", b"1")
    made = [act for act in recorder.acts if act.startswith("mkdir")]
    assert made == ["mkdir repo", "mkdir data", "mkdir ab"]
    for act in made:
        # Each new directory's parent is synced before anything is put into it.
        following = recorder.acts[recorder.acts.index(act) + 1]
        assert following.startswith("fsync")
    assert recorder.acts[-4:-2] == ["fsync one", "link one"]
    assert recorder.acts[-2].startswith("unlink one-tmp-")
    assert recorder.acts[-1] == "fsync ab"
    recorder.acts.clear()
    store.create("data/ab/two", b"2")
    assert [act.partition("-tmp-")[0] for act in recorder.acts] == [
        "fsync two",
        "link two",
        "unlink two",
        "fsync ab",
    ]


def test_a_delete_is_synced_also_when_it_is_repeated(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("locks/a", b"1")
    recorder = Recorder(monkeypatch)
    store.delete("locks/a")
    store.delete("locks/a")
    assert recorder.acts == ["unlink a", "fsync locks"] * 2


def test_a_directory_that_another_writer_made_is_synced_once(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repo/data/ab").mkdir(parents=True)
    recorder = Recorder(monkeypatch)
    store.create("data/ab/one", b"1")
    assert recorder.acts[:5] == [
        "mkdir data",
        "fsync repo",
        "mkdir ab",
        "fsync data",
        "fsync one",
    ]
    recorder.acts.clear()
    store.create("data/ab/two", b"2")
    assert "fsync data" not in recorder.acts


def test_short_writes_are_carried_on(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, data[:1000]))
    data = os.urandom(123_456)
    store.create(KEY, data)
    assert store.read(KEY) == data


def test_short_reads_are_carried_on(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(123_456)
    store.create(KEY, data)
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, n, offset: real(file, min(n, 1000), offset))
    assert store.read(KEY) == data
    assert store.read(KEY, 5, 4000) == data[5:4005]
    assert store.read(KEY, 123_000, 4000) == data[123_000:]


def _die_at(root: str, name: str, count: int) -> None:
    """Create an object and be killed before the `count`-th call of `os.<name>`."""
    store = LocalStore(root)
    real = getattr(os, name)
    left = count

    def act(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    setattr(os, name, act)
    store.create("data/ab/new", b"new" * 1000)


@pytest.mark.parametrize(
    ("name", "count", "visible"),
    [
        ("write", 1, False),
        ("fsync", 1, False),
        ("fsync", 3, False),
        ("link", 1, False),
        ("unlink", 1, True),
        ("fsync", 4, True),
    ],
)
def test_a_kill_at_any_step_shows_the_whole_object_or_nothing(
    tmp_path: Path, name: str, count: int, visible: bool
) -> None:
    root = tmp_path / "repo"
    (root / "data").mkdir(parents=True)
    child = multiprocessing.get_context("fork").Process(
        target=_die_at, args=(str(root), name, count)
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    store = LocalStore(str(root))
    assert keys(store) == (["data/ab/new"] if visible else [])
    if visible:
        assert store.read("data/ab/new") == b"new" * 1000
    else:
        store.create("data/ab/new", b"other")
    store.remove_stale_temporaries(now=lambda: time.time() + 2 * 24 * 3600)
    assert files(root) == ["data/ab/new"]


def test_temporaries_are_never_listed_and_removed_when_old(
    store: LocalStore, tmp_path: Path
) -> None:
    store.create(KEY, b"x")
    ours = tmp_path / "repo" / f"{KEY}-tmp-1234567890"
    restics = tmp_path / "repo/snapshots"
    restics.mkdir()
    restics = restics / ("cd" * 32 + "-tmp-42")
    for path in (ours, restics):
        path.write_bytes(b"part")
    assert keys(store) == [KEY]
    assert store.remove_stale_temporaries() == 0
    os.utime(ours, (0, time.time() - 25 * 3600))
    assert store.remove_stale_temporaries() == 1
    assert files(tmp_path / "repo") == sorted([KEY, f"snapshots/{restics.name}"])


def test_what_is_no_object_is_not_listed(store: LocalStore, tmp_path: Path) -> None:
    store.create("config", b"x")
    root = tmp_path / "repo"
    (root / "lost+found").mkdir()
    (root / "lost+found" / "x").write_bytes(b"")
    (root / "with space").write_bytes(b"")
    os.mkfifo(root / "fifo")
    (root / "dangling").symlink_to("nowhere")
    assert keys(store) == ["config"]


def test_a_failed_create_leaves_nothing(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("data/ab/one", b"1")

    def broken(_file: int) -> None:
        raise OSError(errno.EIO, "sick")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StoreError, match="failing"):
            store.create("data/ab/two", b"2")
    assert files(tmp_path / "repo") == ["data/ab/one"]
    with pytest.raises(ObjectExists):
        store.create("data/ab/one", b"2")
    assert files(tmp_path / "repo") == ["data/ab/one"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.ESTALE, StoreUnavailable),
        (errno.ETIMEDOUT, StoreUnavailable),
        (errno.EIO, StoreError),
        (errno.EMFILE, StoreError),
    ],
)
def test_what_the_system_says_is_told_in_our_words(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[HoldfastError]
) -> None:
    store.create("config", b"x")

    def refuse(*_arguments: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    for act in (lambda: store.create("new", b""), lambda: store.read("config")):
        with pytest.raises(kind) as caught:
            act()
        assert type(caught.value) is kind
        assert os.strerror(number) in caught.value.message
        assert store.location in caught.value.message


def test_a_missing_root_is_made_by_create_and_noticed_by_list(
    store: LocalStore, tmp_path: Path
) -> None:
    with pytest.raises(ObjectNotFound):
        store.read("config")
    store.delete("config")
    # An unmounted disk must not look like a repository without objects.
    with pytest.raises(StoreError, match="mounted"):
        list(store.list("data/"))
    store.create("config", b"x")
    assert list(store.list("data/")) == []
    shutil.rmtree(tmp_path / "repo")
    with pytest.raises(StoreError, match="mounted"):
        list(store.list(""))


def test_a_directory_removed_under_way_is_made_again(store: LocalStore, tmp_path: Path) -> None:
    store.create("locks/a", b"x")
    shutil.rmtree(tmp_path / "repo/locks")
    with pytest.raises(StoreError, match="mounted"):
        store.create("locks/b", b"x")
    store.create("locks/b", b"x")
    assert keys(store) == ["locks/b"]


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "repo").write_bytes(b"")
    store = LocalStore(str(tmp_path / "repo"))
    with pytest.raises(StoreError, match="no such directory"):
        store.create("config", b"x")
    with pytest.raises(StoreError, match="no such directory"):
        list(store.list(""))


def test_no_descriptor_is_left_open(store: LocalStore) -> None:
    store.create(KEY, b"x" * 100)
    before = os.listdir("/proc/self/fd")
    for number in range(50):
        store.create(f"index/{number}", b"")
        store.read(KEY, 1, 5)
        store.delete(f"index/{number}")
        next(store.list(""))
        with pytest.raises(ObjectExists):
            store.create(KEY, b"")
        with pytest.raises(ObjectNotFound):
            store.read("keys/none")
        with pytest.raises(ObjectNotFound):
            store.read("data")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def mounted(tmp_path: Path, *arguments: str) -> Iterator[Path]:
    """A file system of its own, or a skip where mounting is not allowed (never in CI)."""
    where = tmp_path / "mounted"
    where.mkdir()
    done = subprocess.run(["mount", *arguments, str(where)], capture_output=True, text=True)
    if done.returncode != 0:
        if os.environ.get("CI"):
            pytest.fail(done.stderr)
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    yield where
    subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "-t", "tmpfs", "-o", "size=1m", "tmpfs")


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path, "-t", "tmpfs", "-o", "ro", "tmpfs")


def test_a_full_disk(small_disk: Path) -> None:
    store = LocalStore(str(small_disk))
    store.create("data/ab/fits", b"x" * 500_000)
    with pytest.raises(StoreFull, match="Free some space"):
        store.create("data/ab/big", b"x" * 600_000)
    assert files(small_disk) == ["data/ab/fits"]
    store.delete("data/ab/fits")
    store.create("data/ab/big", b"x" * 600_000)
    assert store.size("data/ab/big") == 600_000


def test_a_read_only_disk(read_only_disk: Path) -> None:
    with pytest.raises(StoreDenied, match="read-only"):
        LocalStore(str(read_only_disk)).create("config", b"x")


def _as_nobody(act: Callable[[], None]) -> str:
    """What `act` raises in a child that is not root."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgid(65534)
        os.setuid(65534)
        try:
            act()
            answer = "nothing"
        except HoldfastError as error:
            answer = f"{error.code}: {error.message}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    answer = os.read(reader, 10_000).decode()
    os.close(reader)
    return answer


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody who may not write")
def test_a_directory_that_belongs_to_somebody_else(store: LocalStore) -> None:
    store.create("data/ab/one", b"x")
    for act in (
        lambda: store.create("data/ab/two", b"x"),
        lambda: store.delete("data/ab/one"),
        lambda: print(store.read("data/ab/one")),
        lambda: print(list(LocalStore(store.location).list("data/"))),
    ):
        answer = _as_nobody(act)
        assert answer.startswith("store_denied: Cannot")
        assert "permissions" in answer


def test_a_file_system_without_hard_links(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_arguments: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store.create(KEY, b"first")
    with pytest.raises(ObjectExists):
        store.create(KEY, b"second")
    assert store.read(KEY) == b"first"
    assert files(tmp_path / "repo") == [KEY]


def test_a_file_system_that_can_neither_link_nor_keep_from_replacing(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRename:
        def renameat2(self, *_arguments: Any) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    def no_links(*_arguments: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_options: NoRename())
    with pytest.raises(StoreError, match="another file system"):
        store.create(KEY, b"first")
    assert files(tmp_path / "repo") == []
