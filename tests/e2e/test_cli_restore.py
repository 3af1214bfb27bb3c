"""What goes in comes out: restores in all their forms, and disks as images."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import PASSWORD, CommandLine, make_tree, on_terminal

from holdfast.model.node import Node, NodeType
from holdfast.repo.pack import BlobType
from holdfast.repo.repository import Repository
from holdfast.repo.session import WriteSession
from holdfast.repo.tree import encode_tree
from holdfast.repo.writer import BlobWriter
from holdfast.store.local import LocalStore


@pytest.fixture
def holdfast(tmp_path: Path) -> CommandLine:
    """A repository with one snapshot of ``work``."""
    make_tree(tmp_path / "work")
    line = CommandLine.with_repository(tmp_path)
    line("backup", "work")
    return line


def listed(root: Path) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found.append((path.relative_to(root), status.st_mode, status.st_mtime_ns, content))
    return found


def test_everything_comes_back_below_its_whole_path(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    done = holdfast.json("restore", "latest", "--target", "back", "--verify")["done"]
    assert (done["files"], done["failed"], done["verified"]) == (5, 0, 5)
    assert listed(holdfast.directory / "back" / str(work).lstrip("/")) == listed(work)


def test_a_part_comes_back_directly(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    holdfast("restore", f"latest:{work}/sub", "--target", "sub")
    assert listed(holdfast.directory / "sub") == listed(work / "sub")
    holdfast("restore", f"latest:{work}/notes.txt", "--target", "one")
    assert [path.name for path in (holdfast.directory / "one").iterdir()] == ["notes.txt"]


def test_patterns_choose(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    holdfast("restore", f"latest:{work}", "--target", "logs", "--include", "*.log")
    found = [path.name for path in (holdfast.directory / "logs").rglob("*") if path.is_file()]
    assert found == ["data.log"]
    holdfast("restore", f"latest:{work}", "--target", "rest", "--exclude", "sub")
    assert not (holdfast.directory / "rest/sub").exists()
    said = holdfast.error("restore", "latest", "--target", "x", "--include", "[a", status=2)
    assert said["error"] == "bad_pattern"


def test_latest_is_chosen_by_host_path_and_tag(holdfast: CommandLine) -> None:
    make_tree(holdfast.directory / "other")
    holdfast("backup", "other", "--tag", "b", "--host", "elsewhere")
    work = holdfast.directory / "work"
    for options in (
        ("--path", str(work)),
        ("--tag", ""),
    ):
        shutil.rmtree(holdfast.directory / "back", ignore_errors=True)
        holdfast("restore", f"latest:{work}", "--target", "back", *options)
        assert listed(holdfast.directory / "back") == listed(work)
    said = holdfast.error("restore", "latest", "--target", "x", "--host", "nobody", status=4)
    assert said["error"] == "not_found"


def test_in_place_repairs_and_tells_what_it_does(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    before = listed(work)
    (work / "notes.txt").write_text("scribble")
    (work / "sub/empty").unlink()
    (work / "extra").write_text("mine")
    asked = ("restore", f"latest:{work}", "--target", "work", "--in-place")

    plan = holdfast.json(*asked, "--delete-extra", "--dry-run")["plan"]
    assert plan["deletions"] == ["extra"]
    assert [each["path"] for each in plan["overwritten"]] == ["notes.txt"]
    assert plan["counts"]["create"] == 1
    assert (work / "extra").exists()

    kept = holdfast.json(*asked, "--overwrite", "never")["done"]
    assert (work / "notes.txt").read_text() == "scribble"
    assert kept["files"] == 1
    (work / "sub/empty").unlink()

    refused = holdfast.error(*asked, "--delete-extra", status=2)
    assert "look at --dry-run, then give --yes" in refused["message"]
    done = holdfast.json(*asked, "--delete-extra", "--yes")["done"]
    assert (done["files"], done["deleted"]) == (2, 1)
    assert listed(work) == before


def test_a_person_is_shown_the_plan_and_asked(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    (work / "extra").write_text("mine")
    command = holdfast.command(
        *("restore", f"latest:{work}", "--target", work, "--in-place", "--delete-extra")
    )
    screen, status = on_terminal(command, holdfast.environment, b"n\n")
    assert status == 2
    assert "deleted: extra" in screen
    assert "not confirmed; nothing was changed" in screen
    assert (work / "extra").exists()
    screen, status = on_terminal(command, holdfast.environment, b"y\n")
    assert status == 0, screen
    assert not (work / "extra").exists()


def test_a_directory_that_holds_something_is_refused(holdfast: CommandLine) -> None:
    said = holdfast.error("restore", "latest", "--target", "work", status=19)
    assert said["error"] == "target_not_empty"
    assert "ask for a restore in place" in said["message"]


@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        (("latest", "--target", "x", "--delete-extra"), 2, "usage", "restore in place"),
        (("latest:../x", "--target", "x"), 2, "usage", "leads upwards"),
        (("latest:/absent", "--target", "x"), 4, "not_found", "holds no 'absent'"),
        (("ffffffff", "--target", "x"), 4, "not_found", "no snapshot 'ffffffff'"),
        (("latest", "--target", "work/notes.txt"), 19, "target_error", "as a directory"),
    ],
)
def test_restores_that_cannot_be(
    holdfast: CommandLine, arguments: tuple[str, ...], status: int, code: str, words: str
) -> None:
    said = holdfast.error("restore", *arguments, status=status)
    assert said["error"] == code
    assert words in said["message"]
    assert not (holdfast.directory / "x").exists()


def test_a_snapshot_that_would_write_elsewhere_is_refused(holdfast: CommandLine) -> None:
    repository = Repository.open(LocalStore(str(holdfast.repository)), PASSWORD)
    evil = Node(b"x", NodeType.FILE, 0o644, mtime_ns=10**18)
    text = encode_tree([evil]).replace(b'"name":"x"', b'"name":"../evil"')
    assert b"../evil" in text
    with WriteSession(repository, "backup") as session:
        writer = BlobWriter(session.setup)
        tree = writer.add(BlobType.TREE, text)
        session.take(writer.flush())
        writer.close()
        moment = "2026-01-01T00:00:00Z"
        made = session.commit({"time": moment, "tree": tree.hex(), "paths": ["/x"]})
    said = holdfast.error("restore", made.id, "--target", "inside/deep", status=19)
    assert said["error"] == "path_escapes"
    assert not (holdfast.directory / "inside/evil").exists()


def test_a_link_in_the_way_is_not_followed(holdfast: CommandLine) -> None:
    work, outside = holdfast.directory / "work", holdfast.directory / "outside"
    outside.mkdir()
    shutil.rmtree(work / "sub")
    (work / "sub").symlink_to(outside)
    holdfast("restore", f"latest:{work}", "--target", "work", "--in-place", status=None)
    assert list(outside.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_target_without_room_or_right_to_write(holdfast: CommandLine) -> None:
    place = holdfast.directory / "tiny"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        said = holdfast.error("restore", "latest", "--target", place / "back", status=19)
        assert said["error"] == "target_full"
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        said = holdfast.error(
            "restore", "latest", "--target", place / "x", "--include", "*.txt", status=19
        )
        assert "ead-only file system" in said["message"]
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_damage_is_named_and_never_passes(holdfast: CommandLine) -> None:
    packs = sorted(
        (path for path in (holdfast.repository / "data").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(packs[-1].read_bytes())
    content[len(content) // 2] ^= 1
    packs[-1].chmod(0o600)
    packs[-1].write_bytes(content)
    work = holdfast.directory / "work"

    done = holdfast("restore", f"latest:{work}", "--target", "back", status=3)
    assert "data.bin" in done.stderr
    assert "[file_damaged]" in done.stderr
    strict = holdfast.error("restore", f"latest:{work}", "--target", "s", "--strict", status=16)
    assert strict["error"] == "damaged"

    found = holdfast.json("verify", "--read-data", status=3)
    assert not found["clean"]
    assert found["damaged_packs"] == [packs[-1].name]
    (damaged,) = found["damaged_snapshots"]
    assert [lost["path"] for lost in damaged["lost"]] == [f"{work}/sub/deep/data.bin"]

    # And it can be put in order again, at the price that was named.
    assert holdfast.json("repair", "index", "--dry-run")["plan"]["repairs"] == []
    said = holdfast.error("repair", "packs", packs[-1].name, status=2)
    assert "give --yes" in said["message"]
    plan = holdfast.json("repair", "packs", packs[-1].name, "--dry-run")["plan"]
    assert len(plan["lost"]) == 1
    repaired = holdfast.json("repair", "packs", packs[-1].name, "--yes", status=3)
    assert [each["code"] for each in repaired["findings"]] == ["blob_lost"]
    planned = holdfast.json("repair", "snapshots", "--dry-run", "--forget")["plan"]
    assert [each["id"] for each in planned["damaged"]] == [damaged["id"]]
    anew = holdfast.json("repair", "snapshots", "--forget", "--yes", status=3)
    assert anew["done"]["removed"] == [damaged["id"]]
    assert holdfast.json("verify", "--read-data")["clean"]
    assert holdfast.json("repair", "snapshots")["done"] is None


def test_a_replica_gives_back_what_is_lost(holdfast: CommandLine) -> None:
    holdfast("init", "-r", "replica")
    holdfast("copy", "--to", "replica")
    for path in (holdfast.repository / "data").rglob("*"):
        if path.is_file():
            path.unlink()
    assert not holdfast.json("verify", status=3)["clean"]
    holdfast("repair", "index", "--yes", status=None)
    holdfast("repair", "packs", "--from", "replica", "--yes")
    assert holdfast.json("verify", "--read-data")["clean"]
    work = holdfast.directory / "work"
    holdfast("restore", f"latest:{work}", "--target", "back")
    assert listed(holdfast.directory / "back") == listed(work)


def test_disks_come_back_as_images(holdfast: CommandLine) -> None:
    image = holdfast.directory / "disk.raw"
    with image.open("wb") as file:
        file.truncate(20 << 20)
        file.seek(5 << 20)
        file.write(os.urandom(3 << 20))
    holdfast("disk", "backup", f"vda={image}", f"vdb={image}")
    holdfast("backup", "work")  # latest disk is not the latest snapshot
    said = holdfast.error("disk", "export", "latest", "--output", "x", status=2)
    assert "name one: vda, vdb" in said["message"]
    done = holdfast.json("disk", "export", "latest", "vda", "--output", "back.raw", "--verify")
    assert done["complete"]
    assert done["verified"]
    back = holdfast.directory / "back.raw"
    assert back.read_bytes() == image.read_bytes()
    assert back.stat().st_blocks * 512 < 5 << 20
    said = holdfast.error("disk", "export", "latest", "vda", "--output", "back.raw", status=19)
    assert said["error"] == "target_not_empty"
    holdfast("disk", "export", "latest", "vda", "--output", "back.raw", "--overwrite")
    holdfast("disk", "export", "latest", "vdb", "--format", "qcow2", "--output", "back.qcow2")
    assert (holdfast.directory / "back.qcow2").read_bytes()[:4] == b"QFI\xfb"
    missing = holdfast.error("disk", "export", "latest", "vdc", "--output", "x", status=4)
    assert "holds no disk 'vdc'" in missing["message"]


def test_changed_ranges_are_believed(holdfast: CommandLine) -> None:
    image = holdfast.directory / "disk.raw"
    image.write_bytes(bytes(8 << 20))
    holdfast("disk", "backup", f"vda={image}")
    with image.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"new")
    parent = holdfast.json("snapshots", "--tag", "holdfast:disk")["snapshots"][0]["id"]
    dirty = holdfast.directory / "dirty.json"
    dirty.write_text("[[1048576, 4096]]")
    made = holdfast.json("disk", "backup", f"vda={image}", "--dirty", dirty, "--parent", parent)
    (disk,) = made["disks"]
    assert (disk["read_bytes"], disk["whole_read_reason"]) == (1 << 20, None)
    holdfast("disk", "export", "latest", "--output", "back.raw")
    assert (holdfast.directory / "back.raw").read_bytes() == image.read_bytes()
    dirty.write_text("nonsense")
    made = holdfast.json("disk", "backup", f"vda={image}", "--dirty", dirty, status=3)
    assert [each["code"] for each in made["findings"]] == ["dirty_list_unusable"]
