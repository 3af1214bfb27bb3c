"""Every command does what it says, in text and in JSON."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from command_line import PASSWORD, CommandLine, make_tree, on_terminal


@pytest.fixture
def holdfast(tmp_path: Path) -> CommandLine:
    make_tree(tmp_path / "work")
    return CommandLine.with_repository(tmp_path)


@pytest.fixture
def filled(holdfast: CommandLine) -> CommandLine:
    """A repository with two snapshots; the second has one line more."""
    holdfast("backup", "work", "--tag", "first")
    (holdfast.directory / "work/notes.txt").write_text("learning rate 1e-4\nis better\n")
    holdfast("backup", "work", "--tag", "second")
    return holdfast


def test_init_makes_a_repository_that_the_next_command_opens(tmp_path: Path) -> None:
    holdfast = CommandLine.without_repository(tmp_path)
    made = holdfast.json("init")
    assert made["version"] == 2
    assert made["repository"] == str(holdfast.repository)
    assert json.loads(holdfast("snapshots", "--json").stdout) == {"snapshots": [], "findings": []}
    again = holdfast.error("init", status=11)
    assert again["error"] == "repository_exists"
    assert "choose another place" in again["message"]


def test_init_of_version_1(tmp_path: Path) -> None:
    holdfast = CommandLine.without_repository(tmp_path)
    assert holdfast.json("init", "--repository-version", "1")["version"] == 1


def test_init_asks_twice_on_a_terminal(tmp_path: Path) -> None:
    holdfast = CommandLine.without_repository(tmp_path)
    environment = {k: v for k, v in holdfast.environment.items() if k != "HOLDFAST_PASSWORD"}
    typed = f"{PASSWORD}\n{PASSWORD}\n".encode()
    screen, status = on_terminal(holdfast.command("init"), environment, typed)
    assert status == 0, screen
    assert "the same again" in screen
    assert PASSWORD not in screen
    holdfast("snapshots")


def test_backup_counts_and_describes(holdfast: CommandLine) -> None:
    first = holdfast.json("backup", "work", "--tag", "a,b", "--host", "elsewhere")
    assert first["files_new"] == 5
    assert first["parent"] is None
    assert first["snapshot"]["hostname"] == "elsewhere"
    assert first["snapshot"]["tags"] == ["a", "b"]
    assert first["snapshot"]["paths"] == [str(holdfast.directory / "work")]
    assert first["bytes_processed"] > 1_500_000
    second = holdfast.json("backup", "work", "--host", "elsewhere")
    assert second["parent"] == first["snapshot"]["id"]
    assert second["files_new"] == 0
    forced = holdfast.json("backup", "work", "--host", "elsewhere", "--force")
    assert forced["parent"] is None
    words = holdfast("backup", "work").stdout
    assert "5 files: 5 new, 0 changed, 0 unmodified" in words
    assert " saved" in words


def test_backup_of_a_given_time(holdfast: CommandLine) -> None:
    made = holdfast.json("backup", "work", "--time", "2020-02-29T12:00:00+00:00")
    assert made["snapshot"]["time"].startswith("2020-02-29T")


def test_a_dry_run_stores_nothing(holdfast: CommandLine) -> None:
    before = sorted(holdfast.repository.rglob("*"))
    assert holdfast.json("backup", "work", "--dry-run")["snapshot"] is None
    after = sorted(holdfast.repository.rglob("*"))
    assert [p for p in after if p.is_file()] == [p for p in before if p.is_file()]


def test_quiet_says_nothing(holdfast: CommandLine) -> None:
    done = holdfast("backup", "work", "--quiet")
    assert (done.stdout, done.stderr) == ("", "")


def test_progress_goes_to_stderr(holdfast: CommandLine) -> None:
    done = holdfast("backup", "work", "--workers", "0")
    assert done.stderr == ""
    work = holdfast.directory / "work"
    screen, status = on_terminal(holdfast.command("backup", work, "--force"), holdfast.environment)
    assert status == 0
    assert "\x1b[K" in screen


def test_selections(holdfast: CommandLine) -> None:
    work = holdfast.directory / "work"
    (holdfast.directory / "patterns").write_text("# comment\n*.log\n")
    count = len([path for path in work.rglob("*") if path.is_file() and not path.is_symlink()])
    assert count == 5

    def files(*options: str) -> int:
        made = holdfast.json("backup", "work", "--force", *options)
        return int(made["files_new"])

    assert files("--exclude", "*.bin") == 4
    assert files("--exclude-file", "patterns") == 4
    assert files("--exclude-larger-than", "1MiB") == 4
    assert files("--include", "*.txt") == 2
    assert files("--whitelist", r"data\.(bin|log)$") == 2
    assert files("--blacklist", r"data\.") == 3
    assert files("--exclude-if-present", "empty") == 2
    tag = "Signature: 8a477f597d28d172789f06886806bc55"
    (work / "sub" / "deep" / "CACHEDIR.TAG").write_text(tag)
    assert files("--exclude-caches") < 6


def test_snapshots_are_listed_and_chosen(filled: CommandLine) -> None:
    listed = filled.json("snapshots")["snapshots"]
    assert [each["tags"] for each in listed] == [["first"], ["second"]]
    assert [s["tags"] for s in filled.json("snapshots", "--tag", "first")["snapshots"]] == [
        ["first"]
    ]
    assert filled.json("snapshots", "--host", "nobody")["snapshots"] == []
    assert len(filled.json("snapshots", "--path", filled.directory / "work")["snapshots"]) == 2
    latest = filled.json("snapshots", "--latest", "1")["snapshots"]
    assert [each["tags"] for each in latest] == [["second"]]
    table = filled("snapshots").stdout
    assert listed[0]["short_id"] in table
    assert "2 snapshots" in table


def test_options_of_all_commands_may_stand_before_and_after(filled: CommandLine) -> None:
    place = str(filled.repository)
    for arguments in (
        ("-r", place, "snapshots", "--quiet"),
        ("--repository", place, "-q", "snapshots"),
        ("snapshots", f"--repository={place}", "-q"),
    ):
        assert "first" in filled(*arguments, HOLDFAST_REPOSITORY=None).stdout
    assert filled("--json", "key", "list").stdout.startswith("{")
    assert filled("help").stdout == filled("--help").stdout
    assert "usage: holdfast key list" in filled("help", "key", "list").stdout
    assert filled("--version").stdout.startswith("holdfast ")


def test_passwords_come_from_files_and_commands(filled: CommandLine) -> None:
    (filled.directory / "password").write_text(f"{PASSWORD}\n")
    choices: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
        (("--password-file", "password"), {}),
        (("--password-command", "cat password"), {}),
        ((), {"HOLDFAST_PASSWORD_FILE": "password"}),
        ((), {"HOLDFAST_PASSWORD_COMMAND": "cat password"}),
        ((), {"RESTIC_PASSWORD": PASSWORD}),
        ((), {"RESTIC_PASSWORD_FILE": "password"}),
        ((), {"RESTIC_PASSWORD_COMMAND": "cat password"}),
    )
    del filled.environment["HOLDFAST_PASSWORD"]
    kept = dict(filled.environment)
    for options, environment in choices:
        filled.environment = kept | environment
        filled("snapshots", *options)
    place = filled.environment.pop("HOLDFAST_REPOSITORY")
    assert "first" in filled("snapshots", RESTIC_REPOSITORY=place).stdout


def test_the_cache_lies_where_it_is_told_to(filled: CommandLine) -> None:
    cache = filled.directory / "other"
    filled("backup", "work", "--cache-dir", cache)
    assert any(path.is_file() for path in cache.rglob("*"))
    home = filled.directory / ".cache"
    filled("backup", "work", "--no-cache", HOLDFAST_CACHE_DIR=None)
    assert not home.exists()
    filled("backup", "work", HOLDFAST_CACHE_DIR=None)
    assert any(path.is_file() for path in (home / "holdfast").rglob("*"))
    filled("backup", "work", HOLDFAST_CACHE_DIR=None, XDG_CACHE_HOME=str(filled.directory / "xdg"))
    assert (filled.directory / "xdg/holdfast").is_dir()


def test_limits_slow_down(holdfast: CommandLine) -> None:
    made = holdfast.json("backup", "work", "--limit-upload", "1MB/s", "--limit-download", "50MB/s")
    assert made["seconds"] > 0.4


def test_disks_go_in_and_are_listed(holdfast: CommandLine) -> None:
    image = holdfast.directory / "disk.raw"
    with image.open("wb") as file:
        file.truncate(20 << 20)
        file.seek(5 << 20)
        file.write(os.urandom(3 << 20))
    made = holdfast.json("disk", "backup", f"vda={image}", "--tag", "web")
    assert made["disks"][0]["size_bytes"] == 20 << 20
    assert made["snapshot"]["tags"] == ["holdfast:disk", "web"]
    dirty = holdfast.directory / "dirty.json"
    dirty.write_text("[[5242880, 1048576]]")
    listed = holdfast.json("disk", "list", "latest")
    assert [disk["name"] for disk in listed["disks"]] == ["vda"]
    assert "20.0 MiB" in holdfast("disk", "list", "latest").stdout


def test_nothing_is_left_readable_by_others(filled: CommandLine) -> None:
    password = filled.directory / "password"
    assert not password.exists()
    for path in filled.repository.rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o007, path


def test_python_runs_it_as_a_module(filled: CommandLine) -> None:
    program = Path(filled.command()[0]).with_name("python")
    done = subprocess.run(
        [program, "-m", "holdfast", "snapshots"],
        env=filled.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2 snapshots" in done.stdout
