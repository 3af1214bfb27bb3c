"""A second region by the command line: copies, drills, and the first region lost for good.

Two regions in two directories, each with a keeper of its own: the server's agent, and an agent
that was invited for the other one. Spec lines: S5, S6, I2.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import make_tree
from restic_program import Restic, restic_named
from running_server import RunningServer
from test_up import Machine, eventually

from holdfast.demo.work_tree import Inventory, compare, inventory
from holdfast.errors import Damaged

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("second-region")]

DAMAGED = "sub/deep/data.bin"


@dataclass
class Regions:
    """A server with the regions ``a`` and ``b``, and a machine that is protected in both."""

    server: RunningServer
    machine: Machine
    expected: Inventory
    schedule: dict[str, Any]
    first: dict[str, Any]
    original: dict[str, Any]
    copy: dict[str, Any]

    def store(self, region: str) -> Path:
        return self.server.directory / region

    def drill(self, snapshot_id: str, *, passes: bool = True) -> dict[str, Any]:
        """Drill it, and wait for the result, which the exit status says, too."""
        starting = ("drill", "start", snapshot_id, "--wait", "--json")
        done = self.server.run(*starting, status=0 if passes else Damaged.exit_status)
        if passes:
            assert json.loads(done.stdout)["drill"]["passed"] is True
        else:
            assert json.loads(done.stderr)["error"] == "damaged"
        listed = self.server.json("drill", "list", "--snapshot", snapshot_id)["drills"]
        assert listed[0]["passed"] is passes
        found: dict[str, Any] = listed[0]
        return found

    def snapshot(self, snapshot_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.json("snapshot", "show", snapshot_id)["snapshot"]
        return found


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    server = RunningServer(tmp_path_factory.mktemp("regions"))
    server.variables |= {
        "HOLDFAST_SERVER_REGION_NAME": "a",
        "HOLDFAST_SERVER_REGION_LOCATION": str(server.directory / "a"),
    }
    machines: list[Machine] = []
    try:
        server.start()
        server.login()
        server.run("region", "add", "b", server.directory / "b")
        for name, options in (("gpu", ()), ("keeper-b", ("--keeper", "--region", "b"))):
            machines.append(Machine(server, name))
            machines[-1].enrol(*options)
            machines[-1].run_agent()
        yield protected(server, machines[0])
    finally:
        for machine in machines:
            machine.vanish()
        server.kill_all()


def protected(server: RunningServer, machine: Machine) -> Regions:
    """A directory that is captured twice: the first copy is asked for, the second one comes."""
    tree = make_tree(machine.root / "project")
    server.run("source", "add", "gpu", "/root/project")
    adding = ("schedule", "add", "gpu:/root/project", "--name", "nightly", "--preset", "daily")
    server.run(*adding, "--keep-days", "7")
    first = server.json("schedule", "run", "nightly", "--wait")["snapshot"]
    copied = server.json("snapshot", "copy", first["id"], "--to", "b", "--wait")["snapshot"]
    assert (copied["status"], copied["copy_of_id"]) == ("COMPLETED", first["id"])
    server.run("schedule", "edit", "nightly", "--copy-to", "b", "--drill-every", "1")
    (tree / "notes.txt").write_text("learning rate 1e-4\n")
    original = server.json("schedule", "run", "nightly", "--wait")["snapshot"]

    def copies() -> list[dict[str, Any]]:
        listing = ("snapshot", "list", "--copy-of", original["id"])
        found: list[dict[str, Any]] = server.json(*listing)["snapshots"]
        return found

    eventually(lambda: [each["status"] for each in copies()] == ["COMPLETED"], "no copy comes")
    schedule = server.json("schedule", "show", "nightly")["schedule"]
    (copy,) = copies()
    return Regions(server, machine, inventory(tree), schedule, first, original, copy)


def test_the_copy_comes_by_itself_and_the_schedule_says_so(regions: Regions) -> None:
    """S6: what was captured is in the other region, and nothing waits."""
    names = {each["id"]: each["name"] for each in regions.server.json("region", "list")["regions"]}
    assert names[regions.original["region_id"]] == "a"
    assert names[regions.copy["region_id"]] == "b"
    assert regions.copy["copy_of_id"] == regions.original["id"]
    schedule = regions.schedule
    assert (schedule["copies_pending"], schedule["copy_lag_seconds"]) == (0, 0)
    assert schedule["last_copied_at"] is not None
    assert schedule["drill_days"] == 1
    assert schedule["drill_due_at"] is not None
    listed = regions.server.json("snapshot", "list")["snapshots"]
    assert [each["id"] for each in listed] == [regions.original["id"], regions.first["id"]]


def test_a_drill_proves_both_and_finds_a_flipped_byte(regions: Regions) -> None:
    """S5: it restores and compares; what is damaged is named, and the copy is proven still."""
    check_proven(regions, regions.original["id"])
    pack = max((regions.store("a")).rglob("data/*/*"), key=lambda each: each.stat().st_size)
    whole = pack.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(flipped)
    failed = regions.drill(regions.original["id"], passes=False)
    assert DAMAGED in json.dumps(failed["findings"])
    assert DAMAGED in regions.server.run("drill", "show", failed["id"]).stdout
    shown = regions.snapshot(regions.original["id"])
    assert "drill_failed" in {each["code"] for each in shown["findings"]}
    assert shown["drill"]["passed"] is False
    check_proven(regions, regions.copy["id"])
    pack.write_bytes(whole)
    regions.drill(regions.original["id"])
    shown = regions.snapshot(regions.original["id"])
    assert "drill_failed" not in {each["code"] for each in shown["findings"]}


def check_proven(regions: Regions, snapshot_id: str) -> None:
    drill = regions.drill(snapshot_id)
    assert drill["files"] == 5, drill
    proven = regions.snapshot(snapshot_id)
    assert proven["drilled_at"] is not None
    assert proven["drill"]["drill_id"] == drill["id"]


def test_when_the_first_region_is_lost_everything_is_there(regions: Regions) -> None:
    """S6 I2: restored on the machine, downloaded, and read by plain restic, all from the copy."""
    server, copy_id = regions.server, regions.copy["id"]
    regions.store("a").rename(server.directory / "lost")
    listing = ("snapshot", "list", "--copy-of", regions.original["id"])
    assert [each["id"] for each in server.json(*listing)["snapshots"]] == [copy_id]

    restoring = ("snapshot", "restore", copy_id, "--to", "gpu", "--target", "/root/back")
    assert server.json(*restoring, "--wait")["restore"]["status"] == "COMPLETED"
    compare(regions.expected, inventory(regions.machine.root / "back"))

    project = regions.machine.root / "project"
    server.run("snapshot", "download", f"{copy_id}:notes.txt", "-o", "notes")
    assert (server.directory / "notes").read_bytes() == (project / "notes.txt").read_bytes()
    server.run("snapshot", "download", f"{copy_id}:sub", "-o", "sub.zip")
    with zipfile.ZipFile(server.directory / "sub.zip") as archive:
        assert archive.testzip() is None
        (name,) = (each for each in archive.namelist() if each.endswith("deep/data.bin"))
        assert archive.read(name) == (project / DAMAGED).read_bytes()

    restic = plain_restic(regions)
    restic.check()
    restic.run("restore", "latest", "--target", str(server.directory / "by-restic"))
    found = inventory(server.directory / "by-restic" / "root" / "project")
    compare(regions.expected, found)


def plain_restic(regions: Regions) -> Restic:
    """It speaks to the gateway about the repository in the second region."""
    server = regions.server
    (repository,) = (
        each
        for each in server.json("repository", "list")["repositories"]
        if each["region_id"] == regions.copy["region_id"]
    )
    access = server.json("repository", "password", repository["id"], "--yes")["access"]
    login = server.directory / "home" / ".config" / "holdfast" / "login.json"
    token = json.loads(login.read_text())["token"]
    restic = Restic(restic_named("NEW"), server.directory / "unused")
    restic.environment |= {
        "RESTIC_REPOSITORY": access["url"].replace("TOKEN", token),
        "RESTIC_PASSWORD": access["password"],
    }
    return restic
