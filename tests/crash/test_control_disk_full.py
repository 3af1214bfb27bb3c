"""Disks that are full: the server's, the store's and a machine's, and then have room again.

Each is a small file system in memory of its own, which needs root. While one is full people
and agents are refused or wait; what was acknowledged stays, and the rest is done later.
Spec lines: B6, O3.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from control_aftermath import go_on, look
from control_processes import eventually
from control_site import NotHeard, Site

from holdfast.control.tables import Snapshot

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("control-crash")]
pytest_plugins = ("crash_fixtures",)

SIZE_BYTES = 48 << 20
_FILLER = "filler"


class SmallDisk:
    """A file system of a few megabytes, which can be filled to the last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o700)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=700", "tmpfs", path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")

    def fill(self, *, but_bytes: int = 0) -> None:
        """Leave no room, or so much."""
        with (self.path / _FILLER).open("ab") as file:
            piece = 1 << 20
            while piece:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), piece)
                except OSError:
                    piece //= 2
            file.truncate(file.seek(0, os.SEEK_END) - but_bytes)

    def make_room(self) -> None:
        (self.path / _FILLER).unlink(missing_ok=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[dict[str, SmallDisk]]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    with ExitStack() as stack:
        found = {}
        for name in ("server", "store", "machine"):
            found[name] = SmallDisk(tmp_path / name)
            stack.callback(found[name].unmount)
        yield found


class FullSite(Site):
    """One whose server, store and machine each have a small disk."""

    source_id: str


@pytest.fixture
def place(tmp_path: Path, disks: dict[str, SmallDisk]) -> Iterator[FullSite]:
    """A server with an agent beside it, and a machine."""
    base = tmp_path / "site"
    (base / "own").mkdir(parents=True)
    made = FullSite(base, f"sqlite:///{disks['server'].path / 'control.db'}")
    made.objects = disks["store"].path / "objects"
    try:
        made.add_server(
            data_directory=str(disks["server"].path),
            embedded_agent=True,
            agent_roots=(str(base / "own"),),
        ).start()
        made.settle_in()
        made.make_repository()
        machine = made.add_machine("gpu", state_directory=str(disks["machine"].path / "state"))
        made.source_id = made.add_source(machine, "work")
        for each in made.machines:
            each.start()
        made.supervise()
        yield made
    finally:
        for disk in disks.values():
            disk.make_room()
        made.close()


def test_disks_that_are_full_for_a_while(place: FullSite, disks: dict[str, SmallDisk]) -> None:
    """Nothing acknowledged is lost, nothing done twice, and all goes on when there is room."""
    finished(place)
    fill_the_store(place, disks["store"])
    fill_the_machine(place, disks["machine"])
    fill_the_server(place, disks["server"])
    go_on(place)


def finished(place: FullSite, snapshot_id: str = "") -> None:
    snapshot_id = snapshot_id or place.back_up(place.source_id)
    place.run_dry()
    with place.database.read() as tx:
        assert tx.get_one(Snapshot, snapshot_id).status == "COMPLETED", place.describe("failed")
    look(place)


def fill_the_store(place: FullSite, disk: SmallDisk) -> None:
    """The run fails and says why, and what there was stays whole; the next one has room."""
    for but_bytes in (0, 300_000):  # not even for a lock, or in the middle of what is new
        place.sources[place.source_id].change()
        disk.fill(but_bytes=but_bytes)
        snapshot_id = place.back_up(place.source_id)
        place.run_dry()
        with place.database.read() as tx:
            row = tx.get_one(Snapshot, snapshot_id)
        assert (row.status, row.error_code) == ("FAILED", "store_full"), place.describe("ignored")
        disk.make_room()
        look(place)
    finished(place)


def fill_the_machine(place: FullSite, disk: SmallDisk) -> None:
    """An agent that cannot keep the end of a job does not report it either."""
    place.sources[place.source_id].change()
    disk.fill()
    snapshot_id = place.back_up(place.source_id)
    eventually(
        lambda: place.job_of(snapshot_id).attempt == 1 and not place.machines[0].children,
        lambda: place.describe("the job does not run"),
    )
    time.sleep(1)
    disk.make_room()
    finished(place, snapshot_id)


def fill_the_server(place: FullSite, disk: SmallDisk) -> None:
    """People are refused so that they ask again; an end is kept until it can be taken."""
    source = place.sources[place.source_id]
    source.change()
    snapshot_id = place.back_up(place.source_id)
    eventually(
        lambda: place.job_of(snapshot_id).state == "leased",
        lambda: place.describe("nobody takes it"),
    )
    disk.fill()
    with pytest.raises(NotHeard, match=r"50[37]"):
        ask_for_more(place)
    with pytest.raises(NotHeard, match=r"50[37]"):
        place.ask("PATCH", f"/snapshots/{snapshot_id}", {"name": "later"}, seconds=0)
    place.servers[0].kill()
    time.sleep(3)
    disk.make_room()
    finished(place, snapshot_id)


def ask_for_more(place: FullSite) -> None:
    """There may be room for some in what the database has of the disk already."""
    for _ in range(100):
        place.ask("POST", "/snapshots", {"source_id": place.source_id}, seconds=0)
