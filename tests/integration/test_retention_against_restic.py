"""Our retention and grouping against the genuine ``restic forget --dry-run``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.model.grouping import GroupBy, group
from holdfast.model.retention import RestorePoint, RetentionPolicy, decide
from holdfast.model.span import CalendarSpan

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("restic-retention")]

# Hours, days, weeks, months and years with one and with several snapshots, the turn of an
# ISO year, ends of months, a leap day, and two zones whose days begin at other instants.
HISTORY = (
    ("2021-01-03 23:30:00", "UTC", "a", ""),
    ("2021-01-04 00:30:00", "UTC", "a", "x"),
    ("2022-12-31 12:00:00", "UTC", "b", "x,y"),
    ("2023-01-01 12:00:00", "UTC", "a", ""),
    ("2023-01-31 23:59:59", "Asia/Tokyo", "a", "y"),
    ("2023-02-01 00:00:00", "Asia/Tokyo", "b", ""),
    ("2023-12-31 08:00:00", "UTC", "a", "x,y"),
    ("2024-01-31 08:00:00", "UTC", "a", ""),
    ("2024-02-29 08:00:00", "UTC", "a", ""),
    ("2024-03-02 07:59:59", "UTC", "a", ""),
    ("2024-03-02 08:00:00", "UTC", "a", ""),
    ("2024-03-02 08:00:01", "UTC", "b", ""),
    ("2024-03-29 20:00:00", "Asia/Tokyo", "a", "x"),
    ("2024-03-30 08:00:00", "UTC", "a", ""),
    ("2024-03-30 22:00:00", "UTC", "a", ""),
    ("2024-03-31 05:10:00", "UTC", "a", ""),
    ("2024-03-31 05:50:00", "UTC", "b", ""),
    ("2024-03-31 06:00:00", "UTC", "a", "x,y"),
    ("2024-03-31 08:00:00", "UTC", "a", ""),
    ("2099-01-01 00:00:00", "UTC", "a", ""),
)

span = CalendarSpan.parse
POLICIES = (
    RetentionPolicy(keep_last=3),
    RetentionPolicy(keep_hourly=4),
    RetentionPolicy(keep_daily=4, keep_last=1),
    RetentionPolicy(keep_daily=-1),
    RetentionPolicy(keep_weekly=3, keep_yearly=10),
    RetentionPolicy(keep_monthly=5, keep_tags=(("x", "y"), ("y",))),
    RetentionPolicy(keep_monthly=100),
    RetentionPolicy(keep_tags=(("",),)),
    RetentionPolicy(keep_within=span("1m")),
    RetentionPolicy(keep_within=span("1y1m"), keep_within_yearly=span("5y")),
    RetentionPolicy(keep_within_hourly=span("26h"), keep_within_monthly=span("1y2m30d")),
    RetentionPolicy(keep_within_daily=span("2d2h"), keep_within_weekly=span("50y")),
    RetentionPolicy(
        keep_last=2, keep_hourly=2, keep_daily=3, keep_weekly=2, keep_monthly=2, keep_yearly=-1
    ),
)


def find_restic() -> str:
    """A restic that has every keep rule, or a skip that says why there is none."""
    named = os.environ.get("HOLDFAST_RESTIC") or os.environ.get("HOLDFAST_RESTIC_NEW")
    program = named or shutil.which("restic")
    reason = "no restic: put it on PATH or name it in HOLDFAST_RESTIC"
    if program is not None:
        words = subprocess.run([program, "version"], capture_output=True, text=True, check=True)
        found = re.match(r"restic (\d+)\.(\d+)", words.stdout)
        assert found is not None, words.stdout
        if (int(found[1]), int(found[2])) >= (0, 17):
            return program
        reason = f"{program} is older than 0.17; name a newer one in HOLDFAST_RESTIC"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Restic:
    program: str
    directory: Path

    def run(self, *arguments: str, zone: str = "UTC") -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "TZ": zone,
            "RESTIC_REPOSITORY": str(self.directory / "repository"),
            "RESTIC_PASSWORD": "test",
        }
        done = subprocess.run(
            [self.program, "--no-cache", *arguments],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def forget(self, policy: RetentionPolicy, by: str) -> list[dict[str, Any]]:
        options = ["forget", "--dry-run", "--no-lock", "--json", "--group-by", by]
        for name in ("last", "hourly", "daily", "weekly", "monthly", "yearly"):
            if count := getattr(policy, f"keep_{name}"):
                options += [f"--keep-{name}", "unlimited" if count == -1 else str(count)]
        for name in ("", "_hourly", "_daily", "_weekly", "_monthly", "_yearly"):
            if length := getattr(policy, f"keep_within{name}"):
                options += [f"--keep-within{name.replace('_', '-')}", str(length)]
        for tags in policy.keep_tags:
            options += ["--keep-tag", ",".join(tags)]
        groups: list[dict[str, Any]] = json.loads(self.run(*options))
        return groups


@pytest.fixture(scope="module")
def restic(tmp_path_factory: pytest.TempPathFactory) -> Restic:
    restic = Restic(find_restic(), tmp_path_factory.mktemp("restic"))
    for name in ("one", "two"):
        (restic.directory / name).mkdir()
    restic.run("init")

    def backup(number: int) -> None:
        time, zone, host, tags = HISTORY[number]
        path = "one" if number % 3 else "two"
        options = ["--host", host, "--time", time] + (["--tag", tags] if tags else [])
        restic.run("backup", "--quiet", *options, path, zone=zone)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(backup, range(len(HISTORY))))
    return restic


@pytest.fixture(scope="module")
def points(restic: Restic) -> list[RestorePoint]:
    return [
        RestorePoint(
            each["id"],
            datetime.fromisoformat(each["time"]),
            tuple(each.get("tags", ())),
            host=each["hostname"],
            paths=tuple(each["paths"]),
        )
        for each in json.loads(restic.run("snapshots", "--no-lock", "--json"))
    ]


@pytest.mark.parametrize("number", range(len(POLICIES)))
def test_the_same_points_stay_for_the_same_reasons(
    restic: Restic, points: list[RestorePoint], number: int
) -> None:
    policy = POLICIES[number]
    (theirs,) = restic.forget(policy, by="")
    decisions = decide(policy, points, now=datetime.now(UTC))
    assert {each.point.id: list(each.reasons) for each in decisions if each.keep} == {
        each["snapshot"]["id"]: each["matches"] for each in theirs["reasons"]
    }
    assert {each.point.id for each in decisions if not each.keep} == {
        each["id"] for each in theirs["remove"] or ()
    }


def test_groups_are_the_same(restic: Restic, points: list[RestorePoint]) -> None:
    assert len(points) == len(HISTORY)
    policy = RetentionPolicy(keep_daily=2)
    by = "host,paths,tags"
    theirs = {
        (each["host"], tuple(each["paths"] or ()), tuple(each["tags"] or ())): {
            snapshot["id"] for snapshot in each["keep"]
        }
        for each in restic.forget(policy, by)
    }
    ours = {
        (key.host, key.paths, key.tags): {
            each.point.id for each in decide(policy, members, now=datetime.now(UTC)) if each.keep
        }
        for key, members in group(points, GroupBy.parse(by)).items()
    }
    assert ours == theirs
    assert len(ours) > 5
