"""Hostile snapshots and hostile neighbours: nothing outside the root is ever touched."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from holdfast.errors import HoldfastError, PathEscapes
from holdfast.model.node import Node, NodeType
from holdfast.sources.path.confine import ConfinedTree
from holdfast.sources.path.restore_plan import Action, Deletion, Overwrite, RestoreOptions
from holdfast.sources.path.survey import TargetSurvey
from holdfast.sources.path.target import PendingFile, RestoreTarget

FILE = Node(b"f", NodeType.FILE, 0o666, 1, 1)
DIRECTORY = Node(b"d", NodeType.DIRECTORY, 0o777, 1, 1)
LINK = Node(b"l", NodeType.SYMLINK, 0o777, 1, 1, linktarget=b"../outside")
IN_PLACE = RestoreOptions(in_place=True, overwrite=Overwrite.ALWAYS, delete_extra=True)


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    (tmp_path / "root").mkdir()
    return os.fsencode(tmp_path / "root")


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[bytes]:
    """A directory beside the root; the test fails when anything in it was touched."""
    place = os.fsencode(tmp_path / "outside")
    os.mkdir(place)
    Path(os.fsdecode(place + b"/secret")).write_bytes(b"keep me")
    os.chmod(place + b"/secret", 0o600)
    before = state(place)
    yield place
    assert state(place) == before


def state(place: bytes) -> list[object]:
    found: list[object] = []
    for name in [b"", *sorted(os.listdir(place))]:
        st = os.lstat(place + b"/" + name)
        found.append((name, st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, st.st_size))
    return [*found, Path(os.fsdecode(place + b"/secret")).read_bytes()]


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"/", b"a/b", b"../outside/f", b"/etc/passwd", b"a\0b"]
)
def test_what_is_not_a_name_is_refused(root: bytes, outside: bytes, name: bytes) -> None:
    target = RestoreTarget(root, IN_PLACE)
    pending = PendingFile(b"", b"f", name, 0, 0)
    acts: list[Callable[[], object]] = [
        lambda: target.make_directory(b"", DIRECTORY._replace(name=name)),
        lambda: target.write_file(b"", FILE._replace(name=name), [b"x"]),
        lambda: target.begin_file(b"", FILE._replace(name=name)),
        lambda: target.make_other(b"", LINK._replace(name=name)),
        lambda: target.link(b"", FILE._replace(name=name), b"f"),
        lambda: target.update(b"", FILE._replace(name=name)),
        lambda: target.open_pending(pending),
        lambda: TargetSurvey(root, IN_PLACE).plan_entry(b"", FILE._replace(name=name)),
    ]
    for act in acts:
        with pytest.raises(PathEscapes):
            act()
    assert os.listdir(root) == []


@pytest.mark.parametrize("parent", [b"..", b"../outside", b"/", b"a/../..", b"a//b", b"/tmp"])
def test_parents_that_lead_out_are_refused(root: bytes, outside: bytes, parent: bytes) -> None:
    os.mkdir(root + b"/a")
    target = RestoreTarget(root, IN_PLACE)
    acts: list[Callable[[], object]] = [
        lambda: target.make_directory(parent, DIRECTORY),
        lambda: target.write_file(parent, FILE, [b"x"]),
        lambda: target.make_other(parent, LINK),
        lambda: target.link(b"", FILE, parent + b"/secret"),
        lambda: target.update(parent, FILE._replace(name=b"secret")),
        lambda: target.delete([Deletion(parent + b"/secret", False, 0)]),
    ]
    for act in acts:
        with pytest.raises(PathEscapes):
            act()
    assert os.listdir(root) == [b"a"]


def test_a_link_restored_before_is_not_followed(root: bytes, outside: bytes) -> None:
    target = RestoreTarget(root)
    assert target.make_other(b"", LINK)
    with pytest.raises(PathEscapes, match="symbolic link"):
        target.write_file(b"l", FILE, [b"x"])
    with pytest.raises(PathEscapes):
        target.write_file(b"l/deeper", FILE, [b"x"])
    assert not target.write_file(b"", FILE._replace(name=b"l"), [b"x"])
    assert not target.make_directory(b"", DIRECTORY._replace(name=b"l"))
    assert target.tally.count("entry_exists") == 2
    target.finish()


def test_links_in_the_way_are_replaced_and_not_followed(root: bytes, outside: bytes) -> None:
    os.symlink(outside, root + b"/d")
    os.symlink(outside + b"/secret", root + b"/f")
    os.symlink(outside + b"/new", root + b"/g")
    target = RestoreTarget(root, IN_PLACE)
    assert target.make_directory(b"", DIRECTORY)
    assert target.write_file(b"d", FILE, [b"x"])
    assert target.write_file(b"", FILE, [b"x"])
    assert target.write_file(b"", FILE._replace(name=b"g"), [b"x"])
    target.finish()
    assert sorted(os.listdir(root)) == [b"d", b"f", b"g"]
    assert not any(os.path.islink(root + b"/" + name) for name in os.listdir(root))


def test_files_that_have_names_outside_are_replaced_and_not_changed(
    root: bytes, outside: bytes
) -> None:
    os.link(outside + b"/secret", root + b"/f")
    survey = TargetSurvey(root, RestoreOptions(in_place=True))
    st = os.lstat(root + b"/f")
    same = FILE._replace(size=st.st_size, mtime_ns=st.st_mtime_ns, uid=1000)
    decision = survey.plan_entry(b"", same)
    assert decision.action is Action.OVERWRITE
    assert "other names" in decision.reason
    target = RestoreTarget(root, IN_PLACE)
    assert not target.update(b"", same)
    assert target.write_file(b"", same, [b"x"])
    assert not os.path.samefile(root + b"/f", outside + b"/secret")


def test_a_pending_file_that_was_exchanged_is_not_written(root: bytes, outside: bytes) -> None:
    target = RestoreTarget(root)
    for plant in (os.symlink, os.link):
        pending = target.begin_file(b"", FILE)
        assert pending is not None
        os.unlink(root + b"/f")
        plant(outside + b"/secret", root + b"/f")
        with pytest.raises((PathEscapes, OSError)):
            target.open_pending(pending)
        os.unlink(root + b"/f")


def test_extra_links_are_deleted_and_not_followed(root: bytes, outside: bytes) -> None:
    os.mkdir(root + b"/old")
    os.symlink(outside, root + b"/old/out")
    os.link(outside + b"/secret", root + b"/old/name")
    survey = TargetSurvey(root, IN_PLACE)
    plan = list(survey.plan_extra(b"", {b"kept"}))
    assert [d.path for d in plan][-1] == b"old"
    assert {d.path for d in plan} == {b"old", b"old/out", b"old/name"}
    assert RestoreTarget(root, IN_PLACE).delete(plan) == 3
    assert os.listdir(root) == []


def test_a_planned_deletion_does_not_follow_a_later_link(root: bytes, outside: bytes) -> None:
    os.mkdir(root + b"/old")
    os.close(os.open(root + b"/old/secret", os.O_CREAT))
    plan = list(TargetSurvey(root, IN_PLACE).plan_extra(b"", ()))
    os.rename(root + b"/old", root + b"/moved")
    os.symlink(outside, root + b"/old")
    with pytest.raises(PathEscapes):
        RestoreTarget(root, IN_PLACE).delete(plan)


def test_listing_and_walking_stay_inside(root: bytes, outside: bytes) -> None:
    os.mkdir(root + b"/d")
    os.symlink(outside, root + b"/d/l")
    tree = ConfinedTree(root)
    assert [path for path, _ in tree.below(b"")] == [b"d/l", b"d"]
    with pytest.raises(PathEscapes):
        tree.names(b"d/l")
    tree.close()


def exchange_forever(root: bytes, outside: bytes, counter: mmap.mmap) -> None:
    """Swap `d` and a link that leads out, each time in one step; never returns."""
    trap, place, at_cwd, exchange = root + b"/trap", root + b"/d", -100, 2
    libc = ctypes.CDLL(None)
    swaps = 0
    while True:
        if not os.path.islink(trap):
            with suppress(OSError):
                os.rename(trap, root + b"/junk%d" % swaps)
            with suppress(OSError):
                os.symlink(outside, trap)
        for _ in range(2):
            if libc.renameat2(at_cwd, place, at_cwd, trap, exchange) == 0:
                swaps += 1
        counter[:8] = swaps.to_bytes(8, "little")


def test_a_neighbour_exchanging_directories_for_links_gains_nothing(
    root: bytes, outside: bytes
) -> None:
    os.mkdir(root + b"/d")
    counter = mmap.mmap(-1, 8)
    neighbour = os.fork()
    if neighbour == 0:
        try:
            exchange_forever(root, outside, counter)
        finally:
            os._exit(1)
    target = RestoreTarget(root, IN_PLACE)
    here = [
        FILE._replace(name=b"secret", mode=0o4777, uid=1000, xattrs=((b"user.a", b"1"),)),
        LINK._replace(name=b"secret"),
    ]
    acts: list[Callable[[], object]] = [
        lambda: target.make_directory(b"", DIRECTORY),
        lambda: target.write_file(b"d", here[0], [b"x"]),
        lambda: target.update(b"d", here[0]),
        lambda: target.make_other(b"d", here[1]),
        lambda: target.link(b"d", FILE, b"d/secret"),
        lambda: target.delete([Deletion(b"d/secret", False, 0)]),
        lambda: target.finish(),
    ]
    refused = restored = 0
    try:
        for _ in range(400):
            # A new instance each time, so that no descriptor is left from before a swap.
            target = RestoreTarget(root, IN_PLACE)
            for act in acts:
                try:
                    act()
                    restored += 1
                except (HoldfastError, OSError):
                    refused += 1
            target.close()
    finally:
        os.kill(neighbour, signal.SIGKILL)
        os.waitpid(neighbour, 0)
    assert int.from_bytes(counter[:8], "little") > 100
    assert restored > 100
    assert refused > 0, "the link was never met; the race was not run"
