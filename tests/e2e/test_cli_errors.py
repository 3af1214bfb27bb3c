"""What can go wrong, and what a person is told: exit status, code and message."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import PASSWORD, CommandLine, make_tree, on_terminal

from holdfast.repo.crypto import Sealer
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

AS_ROOT = os.geteuid() == 0


@pytest.fixture
def holdfast(tmp_path: Path) -> CommandLine:
    make_tree(tmp_path / "work")
    return CommandLine.with_repository(tmp_path)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    if not AS_ROOT:
        pytest.skip("mounting needs root")
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def without_root(command: list[str]) -> list[str]:
    """Run a command as if it could not read everybody's files."""
    if not AS_ROOT:
        return command
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]


# What was typed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no command is named; see `holdfast --help`"),
        (("--json",), "no command is named"),
        (("frobnicate",), "there is no command 'frobnicate'"),
        (("key",), "key needs a word more: key list, key add, key remove, key change"),
        (("disk", "eject"), "there is no command 'disk eject'"),
        (("backup",), "the following arguments are required: PATH; see `holdfast backup --help`"),
        (("backup", "work", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("backup", "work", "--excl", "x"), "unrecognized arguments: --excl"),
        (("backup", "work", "--workers", "-1"), "argument --workers: '-1' is not a whole number"),
        (("backup", "work", "--workers", "two"), "argument --workers: 'two' is not a whole number"),
        (("backup", "work", "--exclude-larger-than", "big"), "'big' is not a number of bytes"),
        (("backup", "work", "--time", "noon"), "'noon' is not a time; write 2026-11-21"),
        (("backup", "work", "--wait-for-lock", "3"), "'3' is not a duration"),
        (("backup", "work", "--limit-upload", "0"), "would never finish"),
        (("backup", "work", "--force", "--parent", "x"), "not allowed with argument"),
        (("backup", "work", "--compression", "max"), "invalid choice: 'max'"),
        (("backup", "work", "--exclude-file", "absent"), "No such file or directory"),
        (("disk", "backup", "disk.raw"), "write NAME=IMAGE"),
        (("disk", "backup", "a=x", "a=y"), "'a' is named twice"),
        (("snapshots", "--cache-dir", "x", "--no-cache"), "not allowed with argument"),
        (("snapshots", "-r", "sftp:host:/x"), "sftp: is not a kind of store"),
        (("snapshots", "-r", "s3:https://me:pw@host/b"), "must not hold credentials"),
        (("verify", "--read-data-share", "8/x"), "'8/x' is not a share"),
    ],
)
def test_misuse_is_explained(holdfast: CommandLine, arguments: tuple[str, ...], words: str) -> None:
    said = holdfast.error(*arguments, status=2) if "--json" not in arguments else None
    if said is None:
        said = json.loads(holdfast(*arguments, status=2).stderr)
    assert said["error"] == "usage"
    assert words in said["message"]
    assert not said["retryable"]


@pytest.mark.parametrize("rule", ["--exclude", "--include", "--whitelist", "--blacklist"])
def test_a_bad_pattern_is_refused_before_anything_is_done(holdfast: CommandLine, rule: str) -> None:
    said = holdfast.error("backup", "work", rule, "[a", status=2)
    assert said["error"] == "bad_pattern"
    assert f"{rule[2:]} pattern 1 of 1, '[a', is not possible: " in said["message"]
    assert holdfast.json("snapshots")["snapshots"] == []


def test_errors_are_one_line_of_text(holdfast: CommandLine) -> None:
    done = holdfast("frobnicate", status=2)
    assert done.stdout == ""
    assert done.stderr == "holdfast: there is no command 'frobnicate'; see `holdfast --help`\n"


# The password and the repository


def test_a_wrong_password(holdfast: CommandLine) -> None:
    done = holdfast("snapshots", status=12, HOLDFAST_PASSWORD="wrong")
    assert done.stderr == (
        f"holdfast: the password opens none of the 1 key(s) of the repository at "
        f"{holdfast.repository}; check HOLDFAST_PASSWORD or the password file\n"
    )


def test_no_password(holdfast: CommandLine) -> None:
    done = holdfast("snapshots", status=2, HOLDFAST_PASSWORD=None)
    assert "there is no password: set HOLDFAST_PASSWORD_FILE" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--password-file", "absent", "the password file absent cannot be read: No such file"),
        ("--password-file", "empty", "the password file empty is empty"),
        ("--password-file", "bytes", "the password file bytes is not text in UTF-8"),
        ("--password-command", "false", "the password command false failed with exit status 1"),
        ("--password-command", "absent-program x", "absent-program cannot be run"),
        ("--password-command", "'", "the password command cannot be parsed"),
        ("--password-command", " ", "the password command is empty"),
        ("--password-command", "true", "what the password command true printed is empty"),
    ],
)
def test_passwords_that_cannot_be_had(
    holdfast: CommandLine, option: str, value: str, words: str
) -> None:
    (holdfast.directory / "empty").write_text(" \n")
    (holdfast.directory / "bytes").write_bytes(b"\xff\xfe\xfd")
    assert words in holdfast.error("snapshots", option, value, status=2)["message"]


def test_two_typed_passwords_that_differ(tmp_path: Path) -> None:
    holdfast = CommandLine.without_repository(tmp_path)
    del holdfast.environment["HOLDFAST_PASSWORD"]
    screen, status = on_terminal(holdfast.command("init"), holdfast.environment, b"one\ntwo\n")
    assert status == 2
    assert "the two passwords differ" in screen
    assert not (holdfast.repository / "config").exists()


def test_no_repository(tmp_path: Path) -> None:
    holdfast = CommandLine.without_repository(tmp_path)
    said = holdfast.error("snapshots", status=10)
    assert said["error"] == "not_a_repository"
    assert said["message"] == (
        f"there is no repository at {holdfast.repository}; check the location, or make one with "
        "`holdfast init`"
    )
    nowhere = holdfast("snapshots", status=2, HOLDFAST_REPOSITORY=None)
    assert "no repository is named: set HOLDFAST_REPOSITORY" in nowhere.stderr


def test_a_newer_version(holdfast: CommandLine) -> None:
    repository = Repository.open(LocalStore(str(holdfast.repository)), PASSWORD)
    document = json.loads(repository.config.to_json())
    sealed = Sealer(repository.key).seal(json.dumps({**document, "version": 3}).encode())
    config = holdfast.repository / "config"
    config.unlink()
    config.write_bytes(sealed)
    said = holdfast.error("snapshots", status=17)
    assert said["error"] == "newer_version"
    assert "format version 3; this program knows 1 and 2. Use a newer Holdfast" in said["message"]


def test_a_damaged_config(holdfast: CommandLine) -> None:
    config = holdfast.repository / "config"
    content = bytearray(config.read_bytes())
    config.unlink()
    content[-1] ^= 1
    config.write_bytes(content)
    said = holdfast.error("snapshots", status=16)
    assert said["error"] == "damaged"
    assert "the repository's config" in said["message"]


def test_a_locked_repository(holdfast: CommandLine) -> None:
    repository = Repository.open(LocalStore(str(holdfast.repository)), PASSWORD)
    with repository.lock("repair", exclusive=True):
        said = holdfast.error("backup", "work", status=11)
        assert said["error"] == "repository_locked"
        assert said["retryable"]
        assert "holdfast unlock" in said["message"]
        waiting = holdfast.start("backup", "work", "--wait-for-lock", "60s")
        time.sleep(1.5)
        assert waiting.poll() is None
    assert waiting.communicate(timeout=60)[1] == ""
    assert waiting.returncode == 0


# The places


def test_a_store_without_room(holdfast: CommandLine, tiny: Path) -> None:
    place = tiny / "repository"
    shutil.copytree(holdfast.repository, place)
    (holdfast.directory / "work/large").write_bytes(os.urandom(4_000_000))
    said = holdfast.error("-r", str(place), "backup", "work", status=13)
    assert said["error"] == "store_full"
    (holdfast.directory / "work/large").unlink()
    (holdfast.directory / "work/sub/deep/data.bin").unlink()
    holdfast("-r", place, "backup", "work")
    assert holdfast.json("-r", place, "verify", "--read-data")["clean"]


def test_a_read_only_store(holdfast: CommandLine, tiny: Path) -> None:
    place = tiny / "repository"
    holdfast("backup", "work", "--exclude", "*.bin")
    shutil.copytree(holdfast.repository, place)
    subprocess.run(["mount", "-o", "remount,ro", tiny], check=True)
    said = holdfast.error("-r", str(place), "backup", "work", status=14)
    assert said["error"] == "store_denied"
    assert len(holdfast.json("-r", place, "snapshots")["snapshots"]) == 1


def test_a_source_that_is_not_there(holdfast: CommandLine) -> None:
    said = holdfast.error("backup", "work", "absent", status=18)
    assert said["error"] == "source_vanished"
    assert said["message"] == f"{holdfast.directory}/absent does not exist; nothing was stored"
    assert holdfast.json("snapshots")["snapshots"] == []


def test_files_that_may_not_be_read_are_findings(holdfast: CommandLine) -> None:
    for name in ("notes.txt", "sub/deep"):
        (holdfast.directory / "work" / name).chmod(0)
    done = subprocess.run(
        without_root(holdfast.command("backup", "work", "--json")),
        cwd=holdfast.directory,
        env=holdfast.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (holdfast.directory / "work/sub/deep").chmod(0o755)
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    assert document["snapshot"] is not None
    subjects = [finding["subject"] for finding in document["findings"]]
    assert any("notes.txt" in subject for subject in subjects)
    assert any("sub/deep" in subject for subject in subjects)


def test_findings_are_lines_on_stderr(holdfast: CommandLine) -> None:
    (holdfast.directory / "work/notes.txt").chmod(0)
    done = subprocess.run(
        without_root(holdfast.command("backup", "work", "--quiet")),
        cwd=holdfast.directory,
        env=holdfast.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "notes.txt: " in line
    assert line.endswith("]")


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_backup_leaves_a_whole_repository(
    holdfast: CommandLine, number: signal.Signals
) -> None:
    for name in range(24):
        (holdfast.directory / f"work/large-{name}").write_bytes(os.urandom(16 << 20))
    running = holdfast.start("backup", "work", "--workers", "2")
    await_pack(holdfast)
    children = children_of(running.pid)
    assert children
    running.send_signal(number)
    said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert said == (
        "",
        "holdfast: interrupted; what is complete in the repository stays complete\n",
    )
    for child in children:
        await_end(child)
    assert list((holdfast.repository / "locks").iterdir()) == []
    assert holdfast.json("snapshots")["snapshots"] == []
    assert holdfast.json("verify")["clean"]


def test_a_killed_backup_leaves_no_worker_and_no_lasting_lock(holdfast: CommandLine) -> None:
    for name in range(24):
        (holdfast.directory / f"work/large-{name}").write_bytes(os.urandom(16 << 20))
    running = holdfast.start("backup", "work", "--workers", "2")
    await_pack(holdfast)
    children = children_of(running.pid)
    running.kill()
    running.communicate()
    for child in children:
        await_end(child)
    shutil.rmtree(holdfast.directory / "work")
    make_tree(holdfast.directory / "work")
    holdfast("backup", "work")
    assert holdfast.json("verify", "--read-data")["clean"]


def await_pack(holdfast: CommandLine) -> None:
    """Wait until a running backup has stored something."""
    deadline = time.monotonic() + 60
    while not any(path.is_file() for path in (holdfast.repository / "data").rglob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children_of(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(word) for word in listed.split()]


def await_end(process: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process}").exists():
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":
            return
        assert time.monotonic() < deadline, f"process {process} lives on"
        time.sleep(0.02)


def test_two_backups_at_once(holdfast: CommandLine) -> None:
    make_tree(holdfast.directory / "other")
    running = [holdfast.start("backup", name, "--json") for name in ("work", "other", "work")]
    for process in running:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert json.loads(output)["findings"] == []
    assert len(holdfast.json("snapshots")["snapshots"]) == 3
    assert holdfast.json("verify", "--read-data")["clean"]


def test_a_reader_that_has_seen_enough(holdfast: CommandLine) -> None:
    running = holdfast.start("snapshots", "--json")
    assert running.stdout is not None
    running.stdout.close()
    running.stdout = None
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (141, "")


def test_a_full_standard_output(holdfast: CommandLine) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            holdfast.command("snapshots"),
            env=holdfast.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 19
    assert "standard output cannot be written: No space left on device" in done.stderr
