"""Restores into a directory that is in use: what is kept, replaced, deleted, and the plan."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.errors import TargetError, TargetNotEmpty
from holdfast.model.node import Node, NodeType
from holdfast.sources.path.restore_plan import (
    Action,
    Overwrite,
    PlanBuilder,
    RestoreOptions,
)
from holdfast.sources.path.survey import TargetSurvey
from holdfast.sources.path.target import RestoreTarget

MTIME = 1_700_000_000_123_456_789
OWNER = {"uid": os.geteuid(), "gid": os.getegid()}
FILE = Node(b"f", NodeType.FILE, 0o640, MTIME, MTIME, size=3, **OWNER)  # type: ignore[arg-type]
DIRECTORY = FILE._replace(name=b"d", type=NodeType.DIRECTORY, size=0, mode=0o750)
LINK = FILE._replace(name=b"l", type=NodeType.SYMLINK, linktarget=b"to", size=0)
FIFO = FILE._replace(name=b"p", type=NodeType.FIFO, size=0)


@pytest.fixture
def root(tmp_path: Path) -> bytes:
    """A root that holds exactly FILE, DIRECTORY, LINK and FIFO."""
    place = os.fsencode(tmp_path / "root")
    with RestoreTarget(place) as target:
        target.prepare()
        target.make_directory(b"", DIRECTORY)
        target.write_file(b"", FILE, [b"old"])
        target.make_other(b"", LINK)
        target.make_other(b"", FIFO)
        target.finish()
        assert not target.tally
    return place


def options(overwrite: Overwrite, *, delete_extra: bool = False) -> RestoreOptions:
    return RestoreOptions(in_place=True, overwrite=overwrite, delete_extra=delete_extra)


def planned(root: bytes, node: Node, overwrite: Overwrite = Overwrite.IF_CHANGED) -> str:
    with TargetSurvey(root, options(overwrite)) as survey:
        return survey.plan_entry(b"", node).action.value


@pytest.mark.parametrize("node", [FILE, DIRECTORY, LINK, FIFO], ids=lambda node: node.type.value)
def test_what_is_the_same_is_left(root: bytes, node: Node) -> None:
    assert planned(root, node) == "leave"
    assert planned(root, node, Overwrite.NEVER) == "leave"
    always = "leave" if node is DIRECTORY else "overwrite"
    assert planned(root, node, Overwrite.ALWAYS) == always
    assert planned(root, node._replace(name=b"new")) == "create"


@pytest.mark.parametrize("node", [FILE, DIRECTORY, FIFO], ids=lambda node: node.type.value)
@pytest.mark.parametrize(
    "change", [{"uid": 12345}, {"mode": 0o700}, {"xattrs": ((b"user.a", b"1"),)}], ids=str
)
def test_metadata_alone_is_updated(root: bytes, node: Node, change: dict[str, int]) -> None:
    changed = node._replace(**change)  # type: ignore[arg-type]
    assert planned(root, changed) == "update"
    assert planned(root, changed, Overwrite.NEVER) == "leave"


@pytest.mark.parametrize(
    "node",
    [
        FILE._replace(size=4),
        FILE._replace(mtime_ns=MTIME + 1),
        LINK._replace(linktarget=b"elsewhere"),
    ],
    ids=["size", "mtime", "linktarget"],
)
def test_changed_content_is_overwritten(root: bytes, node: Node) -> None:
    assert planned(root, node) == "overwrite"
    assert planned(root, node, Overwrite.NEVER) == "leave"


def test_content_decides_when_it_is_compared(root: bytes) -> None:
    def same_content(fd: int, node: Node) -> bool:
        return os.read(fd, 10) == b"".join(node.content)

    how = options(Overwrite.IF_CHANGED)
    with TargetSurvey(root, how, same_content=same_content) as survey:
        touched = FILE._replace(mtime_ns=1, content=(b"old",))
        assert survey.plan_entry(b"", touched).action is Action.UPDATE
        assert survey.plan_entry(b"", FILE._replace(content=(b"old",))).action is Action.LEAVE
        changed = survey.plan_entry(b"", FILE._replace(content=(b"new",)))
        assert (changed.action, changed.reason) == (Action.OVERWRITE, "its content differs")


def test_planning_changes_nothing_and_makes_no_root(tmp_path: Path) -> None:
    with TargetSurvey(str(tmp_path / "none")) as survey:
        assert survey.plan_entry(b"d", FILE).action is Action.CREATE
        assert list(survey.plan_extra(b"", ())) == []
    assert os.listdir(tmp_path) == []
    (tmp_path / "f").touch()
    with pytest.raises(TargetNotEmpty):
        TargetSurvey(str(tmp_path))
    with pytest.raises(TargetError, match="directory"):
        TargetSurvey(str(tmp_path / "f"))


def test_a_replaced_file_is_the_old_one_until_the_new_one_is_whole(root: bytes) -> None:
    path = root + b"/f"
    before = os.lstat(path).st_ino
    with RestoreTarget(root, options(Overwrite.IF_CHANGED)) as target:
        target.prepare()
        new = FILE._replace(size=5, mode=0o600)
        pending = target.begin_file(b"", new)
        assert pending is not None
        assert os.lstat(path).st_ino == before
        fd = target.open_pending(pending)
        os.pwrite(fd, b"newer", 0)
        os.close(fd)
        assert Path(os.fsdecode(path)).read_bytes() == b"old"
        assert target.finish_file(pending, new)
        assert Path(os.fsdecode(path)).read_bytes() == b"newer"
        abandoned = target.begin_file(b"", FILE)
        assert abandoned is not None
        target.abandon_file(abandoned)
        assert target.write_file(b"", FILE, [b"six"])
        assert target.make_other(b"", LINK._replace(linktarget=b"there"))
        assert target.link(b"", FILE._replace(name=b"p"), b"f")
        assert not target.tally
    assert os.readlink(root + b"/l") == b"there"
    assert os.path.samefile(root + b"/p", path)
    assert sorted(os.listdir(root)) == [b"d", b"f", b"l", b"p"], "no partial names are left"


def test_nothing_is_overwritten_when_nothing_may_be(root: bytes) -> None:
    with RestoreTarget(root, options(Overwrite.NEVER)) as target:
        target.prepare()
        assert not target.write_file(b"", FILE, [b"new"])
        assert not target.make_other(b"", LINK)
        assert not target.make_directory(b"", DIRECTORY._replace(name=b"f"))
        assert target.make_directory(b"", DIRECTORY._replace(mode=0o700, mtime_ns=1))
        assert target.write_file(b"d", FILE, [b"new"])
        target.finish()
        assert target.tally.count("entry_exists") == 2
        assert target.tally.count("type_conflict") == 1
    assert Path(os.fsdecode(root + b"/f")).read_bytes() == b"old"
    assert os.lstat(root + b"/d").st_mode & 0o777 == 0o750, "its metadata is left too"


def test_an_update_removes_attributes_that_the_node_has_not(root: bytes) -> None:
    os.setxattr(root + b"/f", b"user.extra", b"1")
    wanted = FILE._replace(xattrs=((b"user.kept", b"2"),))
    assert planned(root, wanted) == "update"
    with RestoreTarget(root, options(Overwrite.IF_CHANGED)) as target:
        assert target.update(b"", wanted)
    assert os.listxattr(root + b"/f") == ["user.kept"]
    assert planned(root, wanted) == "leave"


def test_kinds_in_each_others_way(root: bytes) -> None:
    file_for_directory = DIRECTORY._replace(name=b"f")
    assert planned(root, file_for_directory) == "overwrite"
    assert planned(root, file_for_directory, Overwrite.NEVER) == "skip"
    directory_for_file = FILE._replace(name=b"d")
    os.close(os.open(root + b"/d/inner", os.O_CREAT))
    with TargetSurvey(root, options(Overwrite.ALWAYS)) as survey:
        decision = survey.plan_entry(b"", directory_for_file)
        assert (decision.action, decision.code) == (Action.SKIP, "type_conflict")
    how = options(Overwrite.ALWAYS, delete_extra=True)
    with TargetSurvey(root, how) as survey, RestoreTarget(root, how) as target:
        decision = survey.plan_entry(b"", directory_for_file)
        assert (decision.action, decision.clear) == (Action.OVERWRITE, True)
        assert not target.write_file(b"", directory_for_file, [b"x"]), "not what is not planned"
        assert os.path.exists(root + b"/d/inner")
        assert target.delete(survey.plan_clearing(b"d")) == 2
        assert target.write_file(b"", directory_for_file, [b"x"])
        assert target.make_directory(b"", file_for_directory)
        target.finish()
    assert os.path.isfile(root + b"/d")
    assert os.path.isdir(root + b"/f")


def test_only_what_was_planned_is_deleted(root: bytes) -> None:
    how = options(Overwrite.NEVER, delete_extra=True)
    with TargetSurvey(root, how) as survey, RestoreTarget(root, how) as target:
        plan = list(survey.plan_extra(b"", {b"f", b"p"}))
        assert [d.path for d in plan] == [b"d", b"l"]
        os.close(os.open(root + b"/d/later", os.O_CREAT))
        assert target.delete(plan) == 1
        assert target.tally.count("not_deleted") == 1
        assert target.delete(plan) == 0
    assert sorted(os.listdir(root)) == [b"d", b"f", b"p"]


def test_a_plan_adds_up(root: bytes) -> None:
    builder = PlanBuilder()
    with TargetSurvey(root, options(Overwrite.IF_CHANGED, delete_extra=True)) as survey:
        for node, linked in (
            (FILE._replace(size=10_000), False),
            (FILE._replace(name=b"new", size=500), False),
            (FILE._replace(name=b"new2", size=500), True),
            (DIRECTORY, False),
            (FIFO._replace(name=b"s", type=NodeType.SOCKET), False),
        ):
            builder.add(node.name, node, survey.plan_entry(b"", node), linked=linked)
        for deletion in survey.plan_extra(b"", {b"f", b"d", b"p"}):
            builder.delete(deletion)
    plan = builder.build()
    assert {action.value: count for action, count in plan.counts.items() if count} == {
        "create": 2,
        "overwrite": 1,
        "leave": 1,
        "skip": 1,
        "delete": 1,
    }
    assert plan.bytes_[Action.CREATE] == 500
    assert plan.overwritten == ((b"f", "its size differs"),)
    assert [d.path for d in plan.deletions] == [b"l"]
    assert [f.code for f in plan.findings] == ["socket_skipped"]
    old = os.lstat(root + b"/f").st_blocks * 512
    assert plan.needed_bytes == 10_000 + 500 + 10_000 - old - os.lstat(root + b"/l").st_blocks * 512
