"""Plain restic, if this machine has it, to say what it thinks of a repository."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

from holdfast.demo.narration import expect, say

_RESTICS = ("restic", ".cache/restic-sid/usr/bin/restic", "/usr/bin/restic")


def check(environment: Mapping[str, str], *arguments: str) -> None:
    """Have restic read the repository that `environment` names; say what it said."""
    program = next(filter(None, map(shutil.which, _RESTICS)), None)
    if program is None:
        say("there is no restic here; `apt install restic` and run this again")
        return
    checked = subprocess.run(
        [program, *arguments, "--no-cache", "check", "--read-data"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    expect(checked.returncode == 0, f"restic says:\n{checked.stdout}{checked.stderr}")
    say(f"`restic check --read-data`: {checked.stdout.strip().splitlines()[-1]}")
