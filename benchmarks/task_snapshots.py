"""What periodic snapshots cost a computation, and how much they store.

A computation does fixed work on a directory and changes a part of it in each round: alone,
then with a capture of Holdfast at each interval while it is stopped by SIGSTOP, then with a
copy of the whole directory at each interval. In turn, several times; the median of each is
held against that of the computation alone. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measured_computation
import task_beside

WAYS = ("alone", "capture", "copy")


def main() -> None:
    options = _options()
    file_bytes = options.megabytes * 1_000_000 // options.files
    hashings = measured_computation.hashings_in(options.every)
    rounds = max(1, round(options.seconds / options.every))
    samples: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for run in range(options.runs):
        # Each way is the first in its turn.
        for way in WAYS[run % 3 :] + WAYS[: run % 3]:
            with tempfile.TemporaryDirectory(dir=options.work, prefix="task-") as directory:
                base = Path(directory)
                _fill(base / "job", options.files, file_bytes)
                command = [str(base / "job"), str(file_bytes), str(rounds), str(hashings)]
                beside = [str(options.every), str(options.nice)]
                sample = _run(way, base, command, beside)
            samples[way].append(sample)
            print(f"run {run + 1}, {way}: {json.dumps(sample)}", file=sys.stderr, flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(samples))
    print(
        f"{options.files} files, {options.megabytes} MB; {rounds} rounds of {options.every} s, "
        f"each changes {file_bytes / 1e6:.1f} MB; median of {options.runs}"
    )
    _show(samples)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_AsWritten)
    parser.add_argument("--megabytes", type=int, default=1000, help="how large the directory is")
    parser.add_argument("--files", type=int, default=100, help="one of them changes in a round")
    parser.add_argument("--every", type=float, default=2.0, help="seconds of a round, and interval")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it takes alone")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--nice", type=int, default=19, help="of what takes the snapshots")
    parser.add_argument("--work", default=None, help="a directory with room for all the copies")
    parser.add_argument("--json", default="", help="keep every sample in this file")
    return parser.parse_args()


class _AsWritten(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    pass


def _fill(job: Path, files: int, file_bytes: int) -> None:
    chance = random.Random(1)
    job.mkdir()
    for number in range(files):
        (job / f"file-{number:04d}").write_bytes(chance.randbytes(file_bytes))
    os.sync()  # nobody pays for these writes later


def _run(way: str, base: Path, command: list[str], options: list[str]) -> dict[str, Any]:
    store = base / "store"
    store.mkdir()
    # It waits until what runs beside it is ready, too.
    gate = 'read line && exec "$0" "$@"'
    computation = subprocess.Popen(
        ["/bin/sh", "-c", gate, sys.executable, measured_computation.__file__, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    beside = None
    try:
        if way != "alone":
            every, niceness = options
            arguments = [way, command[0], str(store), every, str(computation.pid), niceness]
            beside = subprocess.Popen(
                [sys.executable, task_beside.__file__, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert beside.stdout is not None
            if beside.stdout.readline() != "ready\n":
                raise SystemExit(f"{way}: it did not begin")
            _tell(beside)
        _tell(computation)
        assert computation.stdout is not None
        seconds = float(computation.stdout.readline())
        if beside is None:
            return {"job_seconds": seconds}
        beside.terminate()
        told, _ = beside.communicate(timeout=600)
        # A snapshot that the end cut off leaves nothing to be counted.
        sample: dict[str, Any] = {"job_seconds": seconds} | json.loads(told)
        return sample
    finally:
        for process in filter(None, (computation, beside)):
            process.kill()
            process.communicate()


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("begin\n")
    process.stdin.flush()


def _show(samples: dict[str, list[dict[str, Any]]]) -> None:
    def median(way: str, name: str) -> float:
        return float(statistics.median(each[name] for each in samples[way]))

    alone = median("alone", "job_seconds")
    print("| | job s | slow-down | snapshots | skipped | each s | frozen s | longest | stored MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(f"| alone | {alone:.2f} | | | | | | | |")
    for way in WAYS[1:]:
        seconds = median(way, "job_seconds")
        print(
            f"| {way} | {seconds:.2f} | {(seconds / alone - 1) * 100:+.1f} % "
            f"| {median(way, 'taken'):.0f} | {median(way, 'skipped'):.0f} "
            f"| {median(way, 'seconds'):.2f} | {median(way, 'frozen_seconds'):.3f} "
            f"| {median(way, 'longest_frozen_seconds'):.3f} "
            f"| {median(way, 'stored_bytes') / 1e6:.1f} |"
        )
    each = {way: median(way, "stored_bytes") / max(1, median(way, "taken")) for way in WAYS[1:]}
    after_first = (median("capture", "stored_bytes") - median("capture", "first_bytes")) / max(
        1, median("capture", "taken") - 1
    )
    if each["capture"] and after_first:
        print(
            f"A copy stores {each['copy'] / each['capture']:.1f} times as much for each snapshot, "
            f"and {each['copy'] / after_first:.1f} times as much for each after the first."
        )


if __name__ == "__main__":
    main()
