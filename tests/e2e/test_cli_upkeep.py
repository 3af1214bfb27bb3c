"""Keeping a repository in order: forget, prune, copy, keys, locks, statistics."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import PASSWORD, CommandLine, make_tree, on_terminal

from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore


@pytest.fixture
def holdfast(tmp_path: Path) -> CommandLine:
    """A repository with snapshots of three days, each with a file of its own."""
    work = make_tree(tmp_path / "work")
    line = CommandLine.with_repository(tmp_path)
    for day in (1, 2, 3):
        (work / "own").write_bytes(os.urandom(200_000))
        line("backup", "work", "--time", f"2026-01-0{day}T12:00:00", "--tag", f"day{day}")
    return line


def ids(holdfast: CommandLine) -> list[str]:
    return [each["id"] for each in holdfast.json("snapshots")["snapshots"]]


def test_forget_by_rules(holdfast: CommandLine) -> None:
    planned = holdfast.json("forget", "--keep-last", "1", "--keep-tag", "day1", "--dry-run")
    (group,) = planned["groups"]
    assert [each["keep"] for each in group["snapshots"]] == [True, False, True]
    assert group["snapshots"][0]["reasons"] == ["last snapshot"]
    assert planned["removed"] is None
    assert len(ids(holdfast)) == 3

    refused = holdfast.error("forget", "--keep-last", "1", status=2)
    assert "give --yes" in refused["message"]
    words = holdfast("forget", "--keep-last", "1", "--keep-tag", "day1", "--yes").stdout
    assert "1 snapshot removed" in words
    assert len(ids(holdfast)) == 2
    again = holdfast("forget", "--keep-last", "1", "--keep-tag", "day1").stdout
    assert "0 snapshots removed" in again


def test_forget_by_name_and_prune(holdfast: CommandLine) -> None:
    first, second, third = ids(holdfast)
    before = size_of(holdfast.repository / "data")
    done = holdfast.json("forget", first, second[:8], "--prune", "--instant", "--yes")
    assert sorted(done["removed"]) == sorted([first, second])
    assert done["prune"]["done"]["deleted_packs"] > 0
    assert ids(holdfast) == [third]
    assert size_of(holdfast.repository / "data") < before - 300_000
    assert holdfast.json("verify", "--read-data")["clean"]


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name the snapshots to remove, or say what to keep"),
        (("--keep-last", "many"), "'many' is not a whole number"),
        (("--keep-within", "30"), "is not a span of time"),
        (("--keep-last", "1", "--group-by", "size"), "cannot group by 'size'"),
        (("latest", "--keep-last", "1"), "snapshots to forget or rules to keep by, not both"),
        (("--keep-last", "1", "--tag", ""), "--tag is empty"),
        (("--keep-tag", "absent"), "would remove all 3 restore points"),
    ],
)
def test_forgets_that_cannot_be_meant(
    holdfast: CommandLine, arguments: tuple[str, ...], words: str
) -> None:
    assert words in holdfast.error("forget", *arguments, status=2)["message"]
    assert len(ids(holdfast)) == 3


def test_prune_marks_then_sweeps(holdfast: CommandLine) -> None:
    assert "this gives back 0 B now and 0 B later" in holdfast("prune", "--dry-run").stdout
    holdfast("forget", "--keep-last", "1", "--yes")
    plan = holdfast.json("prune", "--dry-run")
    assert plan["done"] is None
    assert plan["plan"]["freed_later_bytes"] > 400_000
    assert "give --yes" in holdfast.error("prune", status=2)["message"]
    marked = holdfast.json("prune", "--yes")["done"]
    assert marked["marked_packs"] > 0
    assert marked["deleted_packs"] == 0
    assert holdfast.json("prune", "--yes")["done"]["deleted_packs"] == 0
    swept = holdfast.json("prune", "--grace", "0s", "--yes")["done"]
    assert swept["deleted_packs"] > 0
    assert holdfast.json("verify", "--read-data")["clean"]


def test_prune_asks_a_person(holdfast: CommandLine) -> None:
    holdfast("forget", "--keep-last", "1", "--yes")
    command = holdfast.command("prune", "--instant")
    screen, status = on_terminal(command, holdfast.environment, b"\n")
    assert status == 2
    assert "deleted at once" in screen
    assert "not confirmed" in screen
    screen, status = on_terminal(command, holdfast.environment, b"yes\n")
    assert status == 0, screen
    assert "deleted" in screen


def test_copy(holdfast: CommandLine) -> None:
    holdfast("init", "-r", "other", HOLDFAST_PASSWORD="other password")
    (holdfast.directory / "password").write_text("other password\n")
    to = ("--to", "other", "--to-password-file", "password")
    assert holdfast.json("copy", *to, "--host", "nobody")["copied"] == []
    one = holdfast.json("copy", *to, "--tag", "day1")["copied"]
    assert [each["source"] for each in one] == ids(holdfast)[:1]
    rest = holdfast.json("copy", *to)
    assert len(rest["copied"]) == 2
    assert len(rest["skipped"]) == 1
    there = ("-r", "other", "--password-file", "password")
    copied = holdfast.json("snapshots", *there)["snapshots"]
    assert [each["original"] for each in copied] == ids(holdfast)
    assert holdfast.json("verify", "--read-data", *there)["clean"]
    said = holdfast.error("copy", "--to", "other", status=12)
    assert said["error"] == "wrong_password"
    same = holdfast.error("copy", "--to", holdfast.repository, status=2)
    assert "the same repository" in same["message"]


def test_keys(holdfast: CommandLine) -> None:
    (holdfast.directory / "second").write_text("second password\n")
    (only,) = holdfast.json("key", "list")["keys"]
    assert only["current"]
    last = holdfast.error("key", "remove", only["id"], "--yes", status=11)
    assert last["error"] == "conflict"
    holdfast("key", "add", "--new-password-file", "second")
    holdfast("snapshots", "--password-file", "second")
    assert "give --yes" in holdfast.error("key", "remove", only["id"][:8], status=2)["message"]
    holdfast("key", "remove", only["id"][:8], "--yes", "--password-file", "second")
    holdfast("snapshots", status=12)

    (holdfast.directory / "third").write_text("third password\n")
    holdfast("key", "change", "--new-password-command", "cat third", "--password-file", "second")
    holdfast("snapshots", "--password-file", "second", status=12)
    holdfast("snapshots", "--password-file", "third")
    assert "*" in holdfast("key", "list", "--password-file", "third").stdout
    nothing = holdfast.error("key", "add", "--password-file", "third", status=2)
    assert "give --new-password-file" in nothing["message"]


def test_a_new_password_is_typed_twice(holdfast: CommandLine) -> None:
    screen, status = on_terminal(
        holdfast.command("key", "add"), holdfast.environment, b"typed\ntyped\n"
    )
    assert status == 0, screen
    holdfast("snapshots", HOLDFAST_PASSWORD="typed")


def test_locks(holdfast: CommandLine) -> None:
    assert holdfast.json("unlock") == {"removed": [], "left": [], "findings": []}
    repository = Repository.open(LocalStore(str(holdfast.repository)), PASSWORD)
    with repository.lock("backup"):
        left = holdfast.json("unlock", status=3)
        assert [each["code"] for each in left["findings"]] == ["locked"]
        assert "give --yes" in holdfast.error("unlock", "--all", status=2)["message"]
        assert len(holdfast.json("unlock", "--all", "--yes")["removed"]) == 1


def test_statistics(holdfast: CommandLine) -> None:
    found = holdfast.json("stats")
    assert len(found["snapshots"]) == 3
    assert found["logical_bytes"] > 3 * 1_700_000
    assert found["deduplication"] > 2
    words = holdfast("stats").stdout
    assert "each piece once" in words
    freed = holdfast.json("stats", "latest")
    assert 200_000 < freed["freed_bytes"] < 250_000
    assert freed["snapshots"] == ids(holdfast)[-1:]
