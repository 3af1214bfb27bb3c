"""The demonstration shows what it says, and would notice if it did not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.demo.narration import Differs
from holdfast.demo.work_tree import compare, inventory

ENGINE = ("First backup", "entries are the same", "all is right", "Next, with your own")
INSTALLATION = (
    "A rented machine",
    "stored anew",
    "does not exist any more",
    "entries are the same",
    "folder.zip",
    "Everything came back as it was",
)
TASK = (
    "a snapshot every 2 seconds",
    "stored, frozen",
    "does not exist any more",
    "solving from step",
    "to the last bit, as without the accident",
)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--engine"], ENGINE), ([], INSTALLATION), (["--task"], TASK)],
    ids=["engine", "whole", "task"],
)
@pytest.mark.slow
def test_the_demonstration(tmp_path: Path, arguments: list[str], told: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.demo", *arguments],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in told:
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_difference_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    (tmp_path / "link").symlink_to("file")
    expected = inventory(tmp_path)
    compare(expected, inventory(tmp_path))

    moment = file.stat().st_mtime_ns
    file.write_text("two")
    os.utime(file, ns=(moment, moment))
    with pytest.raises(Differs, match="1 entries differ: file"):
        compare(expected, inventory(tmp_path))
    file.write_text("one")
    with pytest.raises(Differs, match="file"):
        compare(expected, inventory(tmp_path))
    os.utime(file, ns=(moment, moment))
    file.chmod(0o600)
    with pytest.raises(Differs, match="file"):
        compare(expected, inventory(tmp_path))
    file.chmod(expected["file"][0] & 0o7777)  # type: ignore[operator]
    compare(expected, inventory(tmp_path))
    (tmp_path / "link").unlink()
    with pytest.raises(Differs, match="link"):
        compare(expected, inventory(tmp_path))
