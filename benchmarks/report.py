"""Tables from samples: for a terminal, and as a section of RESULTS.md.

Ratios are taken only between samples of one run. The input is what ``run.py --json`` writes.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

OURS = "holdfast"

Results = dict[str, Any]
"""``{"machine": {...}, "sets": {name: {"title", "data", "note", "samples"}}}``; samples are
``{phase: {peer: [sample as a dict]}}``."""


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next(
            (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")),
            platform.machine(),
        )
    with open("/proc/meminfo", encoding="ascii") as file:
        ram_bytes = int(file.readline().split()[1]) << 10
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{ram_bytes / (1 << 30):.0f} GiB",
        "kernel": f"Linux {platform.release()}",
        "python": platform.python_version(),
    }


def disk_of(directory: str) -> str:
    """The file system that a directory lies on."""
    real, best = os.path.realpath(directory), ("", "unknown")
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            device, point, kind, *_ = line.split()
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, f"{kind} on {device}")
    return best[1]


def text(results: Results) -> str:
    """The tables for a terminal."""
    lines = []
    for name, each in results["sets"].items():
        lines += ["", f"{name}: {each['title']} ({each['data']})"]
        rows = list(_rows(each["samples"]))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines += [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
    return "\n".join(lines) + "\n"


def markdown(results: Results) -> str:
    """A section of RESULTS.md."""
    facts = dict(results["machine"])
    date = facts.pop("date")
    lines = [f"## {date}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    scale = "" if results["scale"] == 1 else f", at {results['scale']:g} of the full size"
    lines += [f"- medians of {results['runs']} runs, programs in turn{scale}", ""]
    for each in results["sets"].values():
        lines += [f"### {each['title']}", "", f"{each['data']}. {each['note']}".strip()]
        head, *rows = _rows(each["samples"])
        lines += ["", f"| {' | '.join(head)} |"]
        lines += ["|---|---|" + "---:|" * (len(head) - 2)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines += [""]
    return "\n".join(lines)


def _rows(samples: dict[str, dict[str, list[dict[str, float]]]]) -> Iterator[tuple[str, ...]]:
    yield (
        "phase",
        "program",
        "seconds",
        "min-max",
        f"to {OURS}",
        "CPU s",
        "peak MB",
        "stored MB",
    )
    for phase, of_peer in samples.items():
        ours = _median(of_peer.get(OURS, []), "seconds")
        for peer, taken in of_peer.items():
            seconds = [sample["seconds"] for sample in taken]
            median = statistics.median(seconds)
            yield (
                phase,
                peer,
                f"{median:.2f}",
                f"{min(seconds):.2f}-{max(seconds):.2f}",
                "" if peer == OURS or not ours else f"{median / ours:.2f}",
                f"{_median(taken, 'cpu_seconds'):.2f}",
                f"{_median(taken, 'peak_bytes') / 1e6:.0f}",
                f"{_median(taken, 'stored_bytes') / 1e6:.1f}",
            )


def _median(samples: list[dict[str, float]], figure: str) -> float:
    return statistics.median(sample[figure] for sample in samples) if samples else 0.0
