"""What must stay small where the data is large: memory, and what is read and written.

Each figure is taken in a process of its own. The full sizes are in ``benchmarks/``, and so
are the seconds; here they are as large as a test may be, with bounds in proportion.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MIB = 1 << 20

pytestmark = pytest.mark.slow


def holdfast(home: Path, *arguments: str) -> tuple[dict[str, Any], int]:
    """Run the command line; return its document and its peak memory in bytes."""
    environment = {
        **os.environ,
        "HOLDFAST_REPOSITORY": str(home / "repository"),
        "HOLDFAST_PASSWORD": "scale",
        "HOLDFAST_CACHE_DIR": str(home / "cache"),
        "PYTHONPATH": str(ROOT / "benchmarks"),
    }
    program = (
        "import dataclasses, json, sys; from measure import *;"
        "print(json.dumps(dataclasses.asdict(measure(Command(sys.argv[1:], {}, accepted=(0, 3))))))"
    )
    output = home / "output"
    command = [sys.executable, "-m", "holdfast", *arguments, "--json"]
    shell = ["/bin/sh", "-c", 'exec "$@" >"$0"', str(output), *command]
    done = subprocess.run(
        [sys.executable, "-c", program, *shell],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sample = json.loads(done.stdout)
    return json.loads(output.read_text()), sample["peak_bytes"]


def make_repository(home: Path) -> Path:
    home.mkdir()
    holdfast(home, "init")
    return home


def random_file(path: Path, total_bytes: int) -> None:
    chance = random.Random(path.name)
    with path.open("wb") as file:
        for _ in range(total_bytes // MIB):
            file.write(chance.randbytes(MIB))


def test_a_million_blobs_open_in_a_tenth_of_a_gigabyte_and_from_the_cache(
    tmp_path: Path,
) -> None:
    script = ROOT / "benchmarks" / "index_scale.py"
    command = [sys.executable, str(script), "--work", str(tmp_path), "--files", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["blobs"] == 1_000_000
    # 49 bytes a blob are mapped, and the process takes some 40 MB by itself.
    assert figures["warm"]["peak_bytes"] < 110e6
    # Building the tables takes memory that does not grow with their number.
    assert figures["cold"]["peak_bytes"] < 400e6
    # What is cached is not read again: there is nothing left to read.
    (cache,) = tmp_path.glob("index-cache-*")
    directory = tmp_path / "index-20x50000"
    for path in (directory / "index").rglob("*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(b"")
    again = [*command[:2], "--open", str(directory), "--cache", str(cache), "--files", "20"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_memory_of_a_backup_does_not_grow_with_the_file(tmp_path: Path, workers: str) -> None:
    peaks = []
    for megabytes in (128, 512):
        home = make_repository(tmp_path / f"home-{megabytes}")
        path = tmp_path / f"data-{megabytes}"
        random_file(path, megabytes * MIB)
        _, peak = holdfast(home, "backup", "--workers", workers, str(path))
        path.unlink()
        peaks.append(peak)
    small, large = peaks
    assert large < small * 1.15 + 10e6, f"{small / 1e6:.0f} MB became {large / 1e6:.0f} MB"


def test_a_terabyte_of_holes_takes_what_its_data_takes(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(1 << 40)
        for at in (0, 1 << 39, (1 << 40) - 4096):
            file.seek(at)
            file.write(random.Random(at).randbytes(4096))
    home = make_repository(tmp_path / "home")
    document, peak = holdfast(home, "disk", "backup", f"vda={image}")
    assert document["disks"][0]["size_bytes"] == 1 << 40
    assert document["disks"][0]["read_bytes"] < 4 * MIB
    assert peak < 500e6
    stored = sum(path.stat().st_size for path in (home / "repository").rglob("*") if path.is_file())
    assert stored < 20e6
    # With a parent and nothing changed, nothing is left to store.
    again, _ = holdfast(home, "disk", "backup", f"vda={image}")
    assert again["bytes_stored"] < 10_000
