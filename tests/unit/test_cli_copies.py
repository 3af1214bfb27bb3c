"""The commands about copies, against a real server (S6)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sdk_server import SdkServer, TinyAgent, agent, client, sdk_server

from holdfast.cli.main import run
from holdfast.sdk.client import Client
from holdfast.sdk.regions import Region
from holdfast.sdk.schedules import Schedule
from holdfast.sdk.snapshots import Snapshot

__all__ = ["agent", "client", "sdk_server"]

pytestmark = pytest.mark.xdist_group("sdk")

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(
    sdk_server: SdkServer,
    client: Client,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Command:
    """Runs a command; its exit status, and all that it said, among what the server logged."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HOLDFAST_URL", sdk_server.url)
    secret = client.tokens.create("cli", ["read", "create", "restore", "administer"]).secret
    monkeypatch.setenv("HOLDFAST_TOKEN", secret)
    monkeypatch.setattr("holdfast.cli.main._catch_signals", lambda: None)

    def said(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = run(list(words))
        told = capsys.readouterr()
        return status, told.out + told.err

    return said


@pytest.fixture(scope="module")
def region(client: Client) -> Region:
    return client.regions.create("eu-2", "s3://bucket-eu-2")


@pytest.fixture(scope="module")
def schedule(client: Client, agent: TinyAgent, region: Region) -> Schedule:
    source = client.sources.create(agent.host_id, "/root/copied")
    return client.schedules.create(
        source.id, preset="daily", retention={"keep_last": 2}, copy_region_id=region.id
    )


@pytest.fixture(scope="module")
def snapshot(client: Client, schedule: Schedule) -> Snapshot:
    made = client.schedules.run(schedule.id)
    return client.snapshots.wait(made, poll_seconds=0.02)


def document(said: tuple[int, str]) -> Any:
    assert said[0] == 0, said[1]
    return json.loads(next(line for line in said[1].splitlines() if line.startswith("{")))


def test_s6_a_snapshot_is_copied_listed_and_shown(
    command: Command, snapshot: Snapshot, region: Region
) -> None:
    assert "1 missing," in command("schedule", "show", snapshot.schedule_id or "")[1]
    made = document(command("snapshot", "copy", snapshot.id, "--to", "eu-2", "--json"))["snapshot"]
    assert (made["status"], made["copy_of_id"], made["region_id"]) == (
        "PENDING",
        snapshot.id,
        region.id,
    )
    status, told = command("snapshot", "copy", snapshot.id, "--to", region.id)
    assert (status, made["id"] in told) == (11, True)
    [listed] = document(command("snapshot", "list", "--copy-of", snapshot.id, "--json"))[
        "snapshots"
    ]
    assert listed["id"] == made["id"]
    assert made["id"] not in command("snapshot", "list", "--limit", "all")[1]
    assert made["id"] in command("snapshot", "list", "--limit", "all", "--copies")[1]
    status, told = command("snapshot", "show", made["id"])
    assert (status, snapshot.id in told, region.id in told) == (0, True, True)
    assert "CANCELLED" in command("snapshot", "cancel", made["id"])[1]
    assert command("snapshot", "copy", snapshot.id)[0] == 2, "the region has to be named"
    assert command("snapshot", "copy", snapshot.id, "--to", "nowhere")[0] == 4


def test_s6_a_schedule_copies(
    command: Command, schedule: Schedule, snapshot: Snapshot, region: Region
) -> None:
    made = document(
        command(
            *("schedule", "add", schedule.source_id, "--preset", "weekly", "--keep-last", "1"),
            *("--copy-to", "eu-2", "--json"),
        )
    )["schedule"]
    assert (made["copy_region_id"], made["copies_pending"]) == (region.id, 0)
    assert f"to {region.id}, all there" in command("schedule", "show", made["id"])[1]
    status, told = command("schedule", "show", schedule.id)
    assert (status, "all there" in told) == (0, True), "what a person cancelled is not owed"
    edit = ("schedule", "edit", made["id"])
    assert (
        document(command(*edit, "--copy-to", "off", "--json"))["schedule"]["copy_region_id"] is None
    )
    assert "none" in command("schedule", "show", made["id"])[1]
    assert command(*edit, "--copy-to", "nowhere")[0] == 4
    own = snapshot.region_id
    status, told = command(*edit, "--copy-to", own)
    assert (status, "already" in told) == (2, True)


def test_m3_a_copy_is_estimated(command: Command, snapshot: Snapshot, region: Region) -> None:
    status, told = command("billing", "estimate", "--copy", snapshot.id, "--to", "eu-2")
    assert (status, "no snapshot of the source" in told) == (0, True), told
    assert command("billing", "estimate", "--copy", snapshot.id)[0] == 2
    found = document(
        command("billing", "estimate", "--copy", snapshot.id, "--to", "eu-2", "--json")
    )
    assert {each["region_id"] for each in found["estimate"]["costs"]} == {
        snapshot.region_id,
        region.id,
    }


def test_s6_a_keeper_is_invited_for_a_region(command: Command, region: Region) -> None:
    status, told = command("host", "invite", "--keeper", "--region", region.name)
    assert (status, "agent enrol" in told) == (0, True), told
    assert command("host", "invite", "--region", region.name)[0] == 2
