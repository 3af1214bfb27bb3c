"""The commands about drills, against a real server and an agent that compares nothing (S5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sdk_server import SdkServer, TinyAgent, agent, client, sdk_server

from holdfast.cli.main import run
from holdfast.sdk.client import Client
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
    secret = client.tokens.create("cli", ["read", "create", "restore"]).secret
    monkeypatch.setenv("HOLDFAST_TOKEN", secret)
    monkeypatch.setattr("holdfast.cli.main._catch_signals", lambda: None)

    def said(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = run(list(words))
        told = capsys.readouterr()
        return status, told.out + told.err

    return said


@pytest.fixture(scope="module")
def schedule(client: Client, agent: TinyAgent) -> Schedule:
    source = client.sources.create(agent.host_id, "/root/drilled")
    return client.schedules.create(source.id, preset="daily", retention={"keep_last": 2})


@pytest.fixture(scope="module")
def snapshot(client: Client, schedule: Schedule) -> Snapshot:
    made = client.schedules.run(schedule.id)
    return client.snapshots.wait(made, poll_seconds=0.02)


def document(said: tuple[int, str]) -> Any:
    assert said[0] == 0, said[1]
    return json.loads(next(line for line in said[1].splitlines() if line.startswith("{")))


def test_s5_a_drill_is_started_waited_for_and_shown(command: Command, snapshot: Snapshot) -> None:
    status, told = command("drill", "start", snapshot.id, "--on", "gpu-1", "--wait")
    assert status == 0, told
    assert "passed: 3 files (90 B) compared, restored in" in told
    [row] = document(command("drill", "list", "--snapshot", snapshot.id, "--json"))["drills"]
    assert (row["passed"], row["trigger"]) == (True, "manual")
    status, told = command("drill", "show", row["id"])
    assert (status, "passed" in told, "1.5 s" in told) == (0, True, True), told
    status, told = command("drill", "log", row["id"])
    assert (status, "reading" in told) == (0, True)
    status, told = command("snapshot", "show", snapshot.id)
    assert status == 0
    proven = [line for line in told.splitlines() if line.startswith(("last drill", "proven"))]
    assert len(proven) == 2, told
    assert "passed," in proven[0]


def test_s5_one_that_does_not_pass_is_an_error(command: Command, snapshot: Snapshot) -> None:
    start = ("drill", "start", snapshot.id, "--on", "gpu-1", "--path", "damaged")
    status, told = command(*start, "--wait")
    assert status == 16
    assert "did not pass" in told
    status, told = command("drill", "list", "--status", "COMPLETED")
    assert "NOT PASSED" in told
    status, told = command("snapshot", "show", snapshot.id)
    assert "NOT PASSED (chosen paths only)" in told
    assert "did not come back" in told


def test_s5_one_by_a_keeper_waits_and_is_cancelled(command: Command, snapshot: Snapshot) -> None:
    made = document(command("drill", "start", snapshot.id, "--json"))["drill"]
    assert (made["status"], made["host_id"]) == ("PENDING", None)
    status, told = command("drill", "start", snapshot.id)
    assert (status, made["id"] in told) == (11, True)
    assert "a keeper" in command("drill", "show", made["id"])[1]
    status, told = command("drill", "cancel", made["id"])
    assert (status, "CANCELLED" in told) == (0, True)


def test_s5_a_schedule_has_drills(command: Command, schedule: Schedule) -> None:
    made = document(
        command(
            *("schedule", "add", schedule.source_id, "--preset", "weekly", "--keep-last", "1"),
            *("--drill-every", "30", "--json"),
        )
    )["schedule"]
    assert made["drill_days"] == 30
    assert "every 30 days" in command("schedule", "show", made["id"])[1]
    for off in ("off", "0"):
        edit = ("schedule", "edit", made["id"], "--drill-every")
        assert document(command(*edit, "7", "--json"))["schedule"]["drill_days"] == 7
        assert document(command(*edit, off, "--json"))["schedule"]["drill_due_at"] is None
    assert command(*edit, "often")[0] == 2
    assert command(*edit, "366")[0] == 2
    assert document(command("drill", "list", "--schedule", made["id"], "--json"))["drills"] == []
