"""Where Holdfast's time goes in a first backup of a data set.

Two runs, each into a new repository: one with worker processes, which says how much CPU
the parent and the workers take, and one without, under cProfile, which says in which
functions. A profile stretches small functions; the proportions are what counts.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import resource
import shutil
import sys
import time

from holdfast.flows.backup import BackupRequest, backup
from holdfast.flows.backup_disk import DiskBackupRequest, backup_disk
from holdfast.repo.keyfile import Scrypt
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

_SHOWN = 30


def profile(path: str, home: str, *, disk: bool) -> None:
    """Back up `path` twice, with repositories below `home`, and print what was found."""
    workers = len(os.sched_getaffinity(0))
    started, before = time.perf_counter(), _cpu_seconds()
    _back_up(path, os.path.join(home, "with-workers"), workers, disk)
    seconds = time.perf_counter() - started
    parent, children = (a - b for a, b in zip(_cpu_seconds(), before, strict=True))
    print(
        f"with {workers} workers: {seconds:.2f} s; CPU {parent:.2f} s in the parent, "
        f"{children:.2f} s in the workers\n"
    )
    profiler = cProfile.Profile()
    profiler.enable()
    _back_up(path, os.path.join(home, "inline"), 0, disk)
    profiler.disable()
    pstats.Stats(profiler, stream=sys.stdout).strip_dirs().sort_stats("tottime").print_stats(_SHOWN)
    shutil.rmtree(home)


def _back_up(path: str, home: str, workers: int, disk: bool) -> None:
    shutil.rmtree(home, ignore_errors=True)
    repository = Repository.create(LocalStore(home), "profile", scrypt=Scrypt(n=16))
    if disk:
        image = os.path.join(path, "disk.img")
        backup_disk(repository, DiskBackupRequest(disks={"disk": image}, workers=workers))
    else:
        backup(repository, BackupRequest(paths=(os.fsencode(path),), workers=workers))


def _cpu_seconds() -> tuple[float, float]:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return used[0].ru_utime + used[0].ru_stime, used[1].ru_utime + used[1].ru_stime
