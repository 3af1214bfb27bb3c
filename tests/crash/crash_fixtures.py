"""Where a crash case lies, how many random ones there are, and which.

``--crash-cases N`` or HOLDFAST_CRASH_CASES is how many there are of all kinds together;
``--crash-seed N`` or HOLDFAST_CRASH_SEED is the first seed. A failing case prints how to run
it alone. The test modules load this as a plugin.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.repo.session import WriteSession

CASES = 320
SMALL_PACKS_BYTES = 24 << 10
ROOM_BYTES = 512 << 20


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory for a case, in memory where there is room.

    A kill loses nothing that the kernel holds, so a disk would prove no more and take longer.
    Packs are small, so that a backup of a few kilobytes stores several.
    """
    defaults = WriteSession.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "pack_bytes", SMALL_PACKS_BYTES)
    where = _in_memory() or tmp_path
    yield where
    shutil.rmtree(where)


def _in_memory() -> Path | None:
    memory = "/dev/shm"
    if not os.path.isdir(memory) or shutil.disk_usage(memory).free < ROOM_BYTES:
        return None
    where = tempfile.mkdtemp(prefix="holdfast-crash-", dir=memory)
    try:
        os.setxattr(where, "user.note", b"before Linux 6.6 there are none in memory")
    except OSError:
        os.rmdir(where)
        return None
    return Path(where)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test its share of the seeds, and those that have found something before."""
    share = getattr(metafunc.function, "share_of_cases", None)
    if share is None:
        return
    cases = _option(metafunc.config, "cases", CASES)
    first = _option(metafunc.config, "seed", 0)
    seeds = list(range(first, first + max(1, round(cases * share))))
    if first == 0:
        seeds += [seed for seed in metafunc.module.REGRESSIONS if seed not in seeds]
    metafunc.parametrize("seed", seeds)


def _option(config: pytest.Config, name: str, default: int) -> int:
    given = config.getoption(f"--crash-{name}")
    if given is None:
        given = int(os.environ.get(f"HOLDFAST_CRASH_{name.upper()}", default))
    assert isinstance(given, int)
    return given
