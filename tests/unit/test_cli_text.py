"""What people read: durations, counts, tables, names, progress."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest

from holdfast.cli import text, values
from holdfast.cli.progress import ProgressScreen, Style, describe
from holdfast.errors import UsageError
from holdfast.model.progress import Progress


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1:00 min"),
        (3599, "59:59 min"),
        (7325, "2:02:05 h"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_counts() -> None:
    assert text.count(1, "file") == "1 file"
    assert text.count(12_000, "file") == "12,000 files"
    assert text.count(2, "directory", "directories") == "2 directories"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("naïve ☂.txt", "naïve ☂.txt"),
        ("a\x1b[31mred", "a\\x1b[31mred"),
        ("two\nlines", "two\\nlines"),
        (b"we\xffird", "we\\xffird"),
        ("right\u202eleft", "right\\u202eleft"),
    ],
)
def test_names_cannot_command_a_terminal(name: str | bytes, shown: str) -> None:
    assert text.name(name) == shown


def test_tables_are_aligned() -> None:
    rows = [("a", "1 B"), ("longer", "20 B")]
    assert list(text.table(("name", "size"), rows, right=("size",))) == [
        "name    size",
        "------  ----",
        "a        1 B",
        "longer  20 B",
    ]


def test_tags_are_split_and_unique() -> None:
    assert values.tags(["a, b", "b", ""]) == ("a", "b")


@pytest.mark.parametrize("number", ["-1", "1.5", "", "x", "1" * 10, "٣"])
def test_counts_that_are_none(number: str) -> None:
    with pytest.raises(UsageError, match="is not a whole number"):
        values.natural(number)


def test_all_is_a_count() -> None:
    assert [values.count_or_all(word) for word in ("all", "unlimited", "-1", "7")] == [
        -1,
        -1,
        -1,
        7,
    ]


@pytest.mark.parametrize("share", ["101", "-1", "5%%", "", "nan", "1e1"])
def test_percentages_that_are_none(share: str) -> None:
    with pytest.raises(UsageError, match="percentage"):
        values.percentage(share)


def test_percentages() -> None:
    assert [values.percentage(word) for word in ("0", "5%", "99.5", "100%")] == [0, 5, 99.5, 100]


def test_times() -> None:
    assert values.moment("2026-11-21T06:30:00+01:00") == datetime(2026, 11, 21, 5, 30, tzinfo=UTC)
    assert values.moment("2026-11-21").tzinfo is not None
    with pytest.raises(UsageError, match="is not a time; write 2026-11-21"):
        values.moment("yesterday")


def test_a_snapshot_and_a_path() -> None:
    assert values.snapshot_and_path("latest") == ("latest", "")
    assert values.snapshot_and_path("4f3c:/a:b") == ("4f3c", "/a:b")


def test_progress_says_share_rate_and_time_left() -> None:
    progress = Progress("backup", 10, 20, 512 << 20, 1 << 30, "home/\x1bfile")
    assert describe(progress, 4.0) == (
        "backup  50%  10 files  512 MiB  128 MiB/s  4.0 s left  home/\\x1bfile"
    )


def test_progress_beyond_an_estimate_has_no_share() -> None:
    assert describe(Progress("backup", 30, 20, 0, 0), 4.0) == "backup  30 files"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_living_line_is_redrawn_and_taken_away() -> None:
    stream, clock = io.StringIO(), Clock()
    screen = ProgressScreen(stream, Style.LIVE, clock)
    screen(Progress("copy", bytes_done=1))
    screen(Progress("copy", bytes_done=2))  # too soon
    clock.now += 1
    screen(Progress("copy", bytes_done=3))
    screen.clear()
    screen.clear()
    assert stream.getvalue() == "\r\x1b[Kcopy  1 B\r\x1b[Kcopy  3 B  3 B/s\r\x1b[K"


def test_a_log_gets_a_line_now_and_then() -> None:
    stream, clock = io.StringIO(), Clock()
    screen = ProgressScreen(stream, Style.LINES, clock)
    for _ in range(11):
        screen(Progress("copy", files_done=1))
        clock.now += 1
    assert stream.getvalue() == "copy  1 file\n" * 2


def test_a_program_gets_json() -> None:
    stream, clock = io.StringIO(), Clock()
    screen = ProgressScreen(stream, Style.JSON, clock)
    screen(Progress("copy"))
    clock.now += 5
    screen(Progress("copy", bytes_done=7, current="\udcff"))
    (line,) = stream.getvalue().splitlines()
    shown = json.loads(line)["progress"]
    assert (shown["step"], shown["seconds"], shown["bytes_done"]) == ("copy", 5.0, 7)


def test_nothing_is_shown_when_nothing_is_wanted() -> None:
    stream = io.StringIO()
    screen = ProgressScreen(stream, Style.NONE)
    screen(Progress("copy"))
    screen.clear()
    assert stream.getvalue() == ""
