"""Looking into snapshots: list, find, compare, dump, export, mount."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, make_tree, on_terminal


@pytest.fixture
def holdfast(tmp_path: Path) -> CommandLine:
    """Two snapshots; in the second one file is longer, one new, and one gone."""
    work = make_tree(tmp_path / "work")
    line = CommandLine.with_repository(tmp_path)
    line("backup", "work", "--tag", "old")
    (work / "notes.txt").write_text("learning rate 1e-4\nis better\n")
    (work / "sub/empty").unlink()
    (work / "new").write_text("new")
    line("backup", "work", "--tag", "new")
    return line


def ids(holdfast: CommandLine) -> list[str]:
    return [each["id"] for each in holdfast.json("snapshots")["snapshots"]]


def lines(holdfast: CommandLine, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    done = holdfast(*arguments, "--json", status=status)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ls(holdfast: CommandLine) -> None:
    work = str(holdfast.directory / "work")
    listed = holdfast("ls", "latest").stdout.splitlines()
    assert f"{work}/sub/deep/data.bin" in listed
    assert f"{work}/naïve ☂.txt" in listed
    assert not [path for path in listed if ".holdfast" in path]
    assert f"{work}/sub/empty" in holdfast("ls", "latest", "--tag", "old").stdout
    top = holdfast("ls", "latest", work).stdout.splitlines()
    assert top == holdfast("ls", f"latest:{work}").stdout.splitlines()
    assert sorted(top) == sorted(f"{work}/{name}" for name in os.listdir(work))
    below = holdfast("ls", f"latest:{work}/sub", "--recursive").stdout.splitlines()
    assert f"{work}/sub/deep/data.bin" in below
    long = holdfast("ls", "-l", "latest", work).stdout
    assert "-> notes.txt" in long
    documents = {each["path"]: each for each in lines(holdfast, "ls", "latest", work)}
    assert documents[f"{work}/notes.txt"]["size"] == len("learning rate 1e-4\nis better\n")
    assert documents[f"{work}/link"]["linktarget"] == "notes.txt"
    assert documents[f"{work}/sub"]["type"] == "dir"
    twice = holdfast.error("ls", f"latest:{work}", work, status=2)
    assert "named twice" in twice["message"]
    absent = holdfast.error("ls", "latest", f"{work}/absent", status=4)
    assert f"`holdfast ls {ids(holdfast)[1][:8]} {work}`" in absent["message"]


def test_names_that_are_not_text(holdfast: CommandLine) -> None:
    odd = holdfast.directory / "odd"
    odd.mkdir()
    (Path(os.fsdecode(bytes(odd) + b"/we\xff\x1b[31mird"))).write_text("x")
    holdfast("backup", "odd")
    (line,) = holdfast("ls", f"latest:{odd}").stdout.splitlines()
    assert line == f"{odd}/we\\xff\\x1b[31mird"
    (document,) = lines(holdfast, "ls", f"latest:{odd}")
    assert os.fsencode(document["path"]) == bytes(odd) + b"/we\xff\x1b[31mird"
    holdfast("restore", f"latest:{odd}", "--target", "back")
    assert os.listdir(bytes(holdfast.directory / "back")) == [b"we\xff\x1b[31mird"]


def test_paths_that_are_not_text(holdfast: CommandLine) -> None:
    odd = Path(os.fsdecode(bytes(holdfast.directory) + b"/we\xffird"))
    make_tree(odd)
    holdfast("backup", odd)
    assert "we\\xffird" in holdfast("ls", "latest").stdout
    holdfast("restore", f"latest:{odd}", "--target", "back")
    assert (holdfast.directory / "back/notes.txt").exists()


def test_find(holdfast: CommandLine) -> None:
    work = str(holdfast.directory / "work")
    first, second = ids(holdfast)
    versions = lines(holdfast, "find", "notes.txt")
    assert [each["snapshots"] for each in versions] == [[first], [second]]
    (unchanged,) = lines(holdfast, "find", "*.bin")
    assert unchanged["snapshots"] == [first, second]
    assert unchanged["path"] == f"{work}/sub/deep/data.bin"
    assert lines(holdfast, "find", "new", "--tag", "old") == []
    assert lines(holdfast, "find", "new", "--host", "nobody") == []
    assert len(lines(holdfast, "find", "*.log", "--below", f"{work}/sub")) == 1
    assert lines(holdfast, "find", "*.log", "--below", f"{work}/new") == []
    assert lines(holdfast, "find", "*", "--older", "2001-01-01") == []
    words = holdfast("find", "notes.txt").stdout
    assert f"{work}/notes.txt\n" in words
    assert "2 versions in 2 snapshots" in words
    assert holdfast.error("find", "[a", status=2)["error"] == "bad_pattern"


def test_diff(holdfast: CommandLine) -> None:
    work = str(holdfast.directory / "work")
    first, second = ids(holdfast)
    *changes, last = lines(holdfast, "diff", first, second, "--no-metadata")
    found = {(each["change"], each["path"]) for each in changes}
    assert found == {
        ("modified", f"{work}/notes.txt"),
        ("removed", f"{work}/sub/empty"),
        ("added", f"{work}/new"),
    }
    assert last["totals"]["files"] == {
        "added": 1,
        "removed": 1,
        "modified": 1,
        "metadata": 0,
        "type": 0,
    }
    words = holdfast("diff", first, second).stdout
    assert f"M {work}/notes.txt\n" in words
    assert f"+ {work}/new\n" in words
    part = holdfast("diff", f"{first}:{work}/sub", f"{second}:{work}/sub", "--no-metadata")
    assert part.stdout.splitlines()[0] == "- /empty"
    assert lines(holdfast, "diff", first, first)[:-1] == []


def test_dump(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    for arguments in (
        ("latest", f"{work}/sub/deep/data.bin"),
        (f"latest:{work}/sub/deep/data.bin",),
    ):
        done = subprocess.run(
            holdfast.command("dump", *arguments),
            env=holdfast.environment,
            capture_output=True,
            check=True,
        )
        assert done.stdout == (work / "sub/deep/data.bin").read_bytes()
        assert done.stderr == b""
    said = holdfast.error("dump", "latest", str(work), status=2)
    assert "only a regular file can be dumped" in said["message"]
    assert "name one file" in holdfast.error("dump", "latest", status=2)["message"]
    with open("/dev/full", "w") as full:
        failed = subprocess.run(
            holdfast.command("dump", "latest", work / "sub/deep/data.bin"),
            env=holdfast.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert failed.returncode == 19
    assert "standard output cannot be written" in failed.stderr


def test_export_as_tar(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    holdfast("export", f"latest:{work}", "--format", "tar", "--output", "work.tar")
    with tarfile.open(holdfast.directory / "work.tar") as archive:
        names = {member.name.rstrip("/") for member in archive}
        content = archive.extractfile("work/notes.txt")
        assert content is not None
        assert content.read() == (work / "notes.txt").read_bytes()
    assert {"work/sub/deep/data.bin", "work/link", "work/naïve ☂.txt"} <= names
    done = subprocess.run(
        holdfast.command("export", f"latest:{work}", "--format", "tar", "--output", "-"),
        env=holdfast.environment,
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert {member.name.rstrip("/") for member in archive} == names


def test_findings_of_an_export_do_not_get_into_the_archive(holdfast: CommandLine) -> None:
    damage(holdfast)
    work = holdfast.directory / "work"
    done = subprocess.run(
        holdfast.command("export", f"latest:{work}", "--output", "-", "--json"),
        env=holdfast.environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["finding"]["code"] == "file_damaged"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.getmembers()
    assert done.stdout.endswith(bytes(1024))
    strict = holdfast.error("export", "latest", "--output", "x.tar", "--strict", status=16)
    assert strict["error"] == "damaged"
    assert not [name for name in os.listdir(holdfast.directory) if "x.tar" in name]


def damage(holdfast: CommandLine) -> None:
    """Flip a bit in the middle of the largest pack, which holds ``data.bin``."""
    packs = [path for path in (holdfast.repository / "data").rglob("*") if path.is_file()]
    largest = max(packs, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(content)


def test_export_as_zip(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    made = holdfast.json("export", f"latest:{work}", "--format", "zip", "--output", "work.zip")
    assert made["output"] == "work.zip"
    with zipfile.ZipFile(holdfast.directory / "work.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("work/sub/deep/data.bin") == (work / "sub/deep/data.bin").read_bytes()
    again = holdfast.error(
        "export", f"latest:{work}", "--format", "zip", "--output", "work.zip", status=19
    )
    assert again["error"] == "target_not_empty"


def test_an_export_is_not_written_to_a_terminal(holdfast: CommandLine) -> None:
    command = holdfast.command("export", "latest", "--format", "tar", "--output", "-")
    screen, status = on_terminal(command, holdfast.environment)
    assert status == 2
    assert "terminal" in screen


@contextmanager
def mounted(holdfast: CommandLine, *options: str) -> Iterator[Path]:
    place = holdfast.directory / "mounted"
    place.mkdir(exist_ok=True)
    running = holdfast.start("mount", str(place), *options)
    try:
        deadline = time.monotonic() + 60
        while not os.path.ismount(place):
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield place
    finally:
        running.send_signal(signal.SIGTERM)
        output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, (output, errors)
    assert not os.path.ismount(place)


def test_mount(holdfast: CommandLine) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount3") is None:
        reason = "no FUSE: apt-get install fuse3, and /dev/fuse must be usable"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    work = holdfast.directory / "work"
    data = (work / "sub/deep/data.bin").read_bytes()
    with mounted(holdfast) as place:
        names = sorted(os.listdir(place / "snapshots"))
        assert len(names) == 3
        assert names[-1] == "latest"
        assert sorted(os.listdir(place / "ids")) == sorted(name[:8] for name in ids(holdfast))
        top = place / "snapshots" / "latest" / str(work).lstrip("/")
        assert (top / "sub/deep/data.bin").read_bytes() == data
        with (top / "sub/deep/data.bin").open("rb") as file:
            file.seek(1_000_000)
            assert file.read(1000) == data[1_000_000:1_001_000]
        for path in work.rglob("*"):
            seen, real = (top / path.relative_to(work)).lstat(), path.lstat()
            assert (seen.st_mode, seen.st_uid) == (real.st_mode, real.st_uid)
            if not path.is_dir():
                assert (seen.st_size, seen.st_mtime_ns) == (real.st_size, real.st_mtime_ns)
        assert os.readlink(top / "link") == "notes.txt"
        first = place / "ids" / ids(holdfast)[0][:8] / str(work).lstrip("/")
        assert (first / "sub/empty").read_bytes() == b""
        with pytest.raises(OSError, match="Read-only file system"):
            (top / "notes.txt").write_text("no")
        with pytest.raises(FileNotFoundError):
            (top / "absent").stat()
        # Others work in the repository meanwhile.
        holdfast("backup", work)
    assert list((holdfast.repository / "locks").iterdir()) == []


def test_mount_of_some_snapshots_and_of_damage(holdfast: CommandLine) -> None:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or shutil.which("fusermount3") is None:
        pytest.skip("no FUSE: apt-get install fuse3, and /dev/fuse must be usable")
    damage(holdfast)
    work = str(holdfast.directory / "work").lstrip("/")
    with mounted(holdfast, "--tag", "old") as place:
        assert len(os.listdir(place / "ids")) == 1
        top = place / "snapshots/latest" / work
        with pytest.raises(OSError, match="Input/output error"):
            (top / "sub/deep/data.bin").read_bytes()


def test_a_mount_on_nothing(holdfast: CommandLine) -> None:
    said = holdfast.error("mount", "absent", status=19)
    assert "absent is not a directory; make it first" in said["message"]


def test_the_library_is_not_needed_for_anything_else() -> None:
    code = (
        "import sys; sys.modules['mfusepy'] = None\n"
        "from holdfast.cli.main import run; run(['mount', '/', '-r', '/x'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "mounting needs FUSE; install fuse3" in done.stderr
