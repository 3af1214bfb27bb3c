"""A genuine restic program at work in one repository, as its users would run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sample_repository import PASSWORD


def restic_named(which: str) -> str:
    """The restic that HOLDFAST_RESTIC_OLD or _NEW names; without one the test is skipped."""
    variable = f"HOLDFAST_RESTIC_{which}"
    program = os.environ.get(variable, "")
    if program:
        return program
    reason = f"{variable} does not name a restic program"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Restic:
    """One program, one repository in a directory, a cache beside it; the time zone is UTC."""

    def __init__(self, program: str, directory: Path) -> None:
        self.program, self.directory = program, directory
        self.environment = os.environ | {
            "TZ": "UTC",
            "RESTIC_REPOSITORY": str(directory),
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": str(directory.parent / "restic-cache"),
        }

    @property
    def keeps_raw_links(self) -> bool:
        """Whether it restores links to names that are not UTF-8: since 0.16."""
        return not re.match(r"restic 0\.1[0-5]\.", self.run("version"))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.program, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run to the end; return what was printed on both streams."""
        process = self.start(*arguments)
        text, _ = process.communicate(timeout=120)
        assert (process.returncode != 0) == fails, text
        return text

    def check(self) -> None:
        """Fail unless everything is found to be in order, every byte read."""
        text = self.run("check", "--read-data", "--no-cache")
        assert "no errors were found" in text
        assert "error" not in text.replace("no errors were found", "")

    def backup(self, *arguments: str) -> dict[str, Any]:
        """Back up; return the summary."""
        for line in self.run("backup", "--json", *arguments).splitlines():
            message: dict[str, Any] = json.loads(line)
            if message["message_type"] == "summary":
                return message
        raise AssertionError("restic printed no summary")

    def snapshots(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self.run("snapshots", "--json"))
        return listed
