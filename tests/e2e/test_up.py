"""``holdfast up``: from an empty directory to a machine that was restored, and back again."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from command_line import make_tree
from running_server import PROGRAM, RunningServer

from holdfast.demo.work_tree import compare, inventory

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("up")]

SECONDS = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server, up and signed in to."""
    running = RunningServer(tmp_path_factory.mktemp("up"))
    roots = running.directory / "own"
    roots.mkdir()
    running.variables["HOLDFAST_SERVER_AGENT_ROOTS"] = str(roots)
    try:
        running.start()
        running.login()
        yield running
    finally:
        running.kill_all()


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


class Machine:
    """A machine of its own: a root that it thinks is /root, and an agent."""

    def __init__(self, server: RunningServer, name: str) -> None:
        self.server, self.name = server, name
        self.directory = server.directory / name
        self.root = self.directory / "root"
        self.root.mkdir(parents=True)
        self.variables = {
            "HOLDFAST_AGENT_STATE_DIRECTORY": str(self.directory / "state"),
            "HOLDFAST_AGENT_CACHE_DIRECTORY": str(self.directory / "cache"),
            "HOLDFAST_AGENT_ROOTS": f"/root={self.root}",
            "HOLDFAST_AGENT_NAME": name,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def enrol(self, *options: str) -> None:
        invite = ("host", "invite", "--name", self.name, *options)
        invitation = self.server.json(*invite)["invitation"]
        self.server.run(
            *("agent", "enrol", self.server.url, "--token", invitation["secret"]),
            variables=self.variables,
        )

    def run_agent(self) -> None:
        with (self.directory / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "agent", "run", "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env={**self.server.environment, **self.variables},
                start_new_session=True,
            )
        eventually(
            lambda: self.server.json("host", "show", self.name)["host"]["status"] == "online",
            f"{self.name} was not heard",
        )

    def vanish(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def machines(server: RunningServer) -> Iterator[Callable[[str], Machine]]:
    made: list[Machine] = []

    def make(name: str) -> Machine:
        machine = Machine(server, name)
        made.append(machine)
        machine.enrol()
        machine.run_agent()
        return machine

    yield make
    for machine in made:
        machine.vanish()


def test_first_start_makes_what_a_server_needs_for_its_owner_only(server: RunningServer) -> None:
    assert server.announced["first_start"] is True
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    for name in ("master.key", "owner.password", "gateway.credential", "agent/credential"):
        assert stat.S_IMODE((server.data / name).stat().st_mode) == 0o600, name


def test_whoami_and_the_login_file(server: RunningServer) -> None:
    login = server.directory / "home" / ".config" / "holdfast" / "login.json"
    assert stat.S_IMODE(login.stat().st_mode) == 0o600
    me = server.json("whoami")["me"]
    assert me["kind"] == "token"
    assert me["operator"] is True
    shown = server.run("whoami").stdout
    assert server.url in shown
    token = json.loads(login.read_text())["token"]
    assert token not in shown
    named = {"HOLDFAST_TOKEN": token, "HOLDFAST_URL": server.url}
    assert server.json("whoami", variables=named)["me"] == me
    refused = server.run("whoami", status=20, variables={"HOLDFAST_TOKEN": "hf_" + "x" * 43})
    assert "hf_xxxx" not in refused.stderr
    # A token is for the server that made it, and for no other.
    elsewhere = server.run("whoami", "--url", "http://127.0.0.1:9", status=20)
    assert "no token" in elsewhere.stderr


def test_health_and_the_one_port(server: RunningServer) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/ready").status_code == 200
    assert httpx.get(f"{server.url}/restic/unknown/config").status_code == 401
    assert httpx.get(f"{server.url}/api/v1/hosts").status_code == 401


def test_a_second_server_on_the_same_directory_is_refused(server: RunningServer) -> None:
    refused = server.run("up", "--port", "0", "--data-directory", server.data, status=11)
    assert f"process {server.pid}" in refused.stderr
    assert "--data-directory" in refused.stderr


def test_a_port_that_is_taken_is_said_so(server: RunningServer, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    refused = server.run("up", "--port", port, "--data-directory", tmp_path / "data", status=11)
    assert f"port {port}" in refused.stderr


def test_a_machine_is_protected_lost_and_restored_elsewhere_with_the_command_line(
    server: RunningServer, machines: Callable[[str], Machine]
) -> None:
    """B1 B5 B6 B7 B9 H1 I1: source, schedule, run, history, disaster, restore, download."""
    first = machines("gpu-1")
    tree = make_tree(first.root / "project")
    source = server.json("source", "add", "gpu-1", "/root/project")["source"]
    schedule = server.json(
        *("schedule", "add", "gpu-1:/root/project", "--name", "nightly"),
        *("--preset", "daily", "--keep-daily", "7", "--keep-days", "30"),
    )["schedule"]
    assert schedule["source_id"] == source["id"]
    ran = server.json("schedule", "run", "nightly", "--wait")["snapshot"]
    assert ran["status"] == "COMPLETED"
    server.run("snapshot", "edit", ran["id"], "--name", "before the night")
    expected = inventory(tree)
    listed = server.json("snapshot", "list", "--source", "/root/project")["snapshots"]
    assert [each["id"] for each in listed] == [ran["id"]]
    assert server.json("snapshot", "show", "latest")["snapshot"]["name"] == "before the night"
    assert server.run("snapshot", "log", ran["id"]).stdout
    assert server.run("schedule", "preview", "nightly").stdout

    names = server.run("snapshot", "browse", "latest").stdout
    assert "notes.txt" in names
    assert "sub/" in names
    server.run("snapshot", "download", "latest:notes.txt", "-o", "notes")
    assert (server.directory / "notes").read_text() == (tree / "notes.txt").read_text()
    server.run("snapshot", "download", "latest:sub")
    with zipfile.ZipFile(server.directory / "sub.zip") as archive:
        assert archive.testzip() is None
        assert any(name.endswith("deep/data.bin") for name in archive.namelist())
    piped = server.run("snapshot", "download", "latest:notes.txt", "-o", "-").stdout
    assert piped == (tree / "notes.txt").read_text()

    (tree / "notes.txt").write_text("learning rate 1e-4\n")
    second = server.json("schedule", "run", "nightly", "--wait")["snapshot"]
    changes = server.run("snapshot", "diff", ran["id"], second["id"], "--content").stdout
    assert "notes.txt" in changes

    first.vanish()
    other = machines("gpu-2")
    restored = server.json(
        *("snapshot", "restore", "before the night", "--to", "gpu-2"),
        *("--target", "/root/back", "--wait"),
    )["restore"]
    assert restored["status"] == "COMPLETED"
    found = inventory(other.root / "back")
    compare({name: expected[name] for name in expected}, found)
    assert server.json("restore-job", "list")["restores"][0]["id"] == restored["id"]
    assert server.run("restore-job", "log", restored["id"]).stdout

    kinds = {each["kind"] for each in server.json("event", "list", "--limit", "all")["events"]}
    assert {"host.enrolled", "snapshot.completed", "restore.completed"} <= kinds
    assert server.json("billing", "cost", second["id"])["cost"]["snapshot_id"] == second["id"]
    address = server.json("repository", "list")["repositories"][0]["url"]
    assert address.startswith("rest:")
    assert server.json("job", "list", "--kind", "backup")["jobs"]
    assert server.json("audit", "list")["entries"]


def test_s5_a_snapshot_is_proven_by_a_drill(
    server: RunningServer, machines: Callable[[str], Machine]
) -> None:
    """By the server's own keeper while the machine is gone, and on another machine."""
    first = machines("gpu-7")
    make_tree(first.root / "project")
    server.run("source", "add", "gpu-7", "/root/project")
    server.run(
        *("schedule", "add", "gpu-7:/root/project", "--name", "drilled", "--preset", "daily"),
        *("--keep-daily", "7", "--drill-every", "30"),
    )
    snapshot = server.json("schedule", "run", "drilled", "--wait")["snapshot"]
    first.vanish()
    drill = server.json("drill", "start", snapshot["id"], "--wait")["drill"]
    assert (drill["status"], drill["passed"]) == ("COMPLETED", True)
    assert drill["files"] == snapshot["files"]
    assert drill["compared_bytes"] > 0
    shown = server.json("snapshot", "show", snapshot["id"])["snapshot"]
    assert shown["drill"]["drill_id"] == drill["id"]
    assert shown["proven_at"] == shown["drilled_at"]

    machines("gpu-8")
    here = server.json(
        *("drill", "start", snapshot["id"], "--on", "gpu-8", "--path", "notes.txt", "--wait")
    )["drill"]
    assert (here["passed"], here["files"], here["paths"]) == (True, 1, ["notes.txt"])


def test_removing_asks_and_holds_protect(
    server: RunningServer, machines: Callable[[str], Machine]
) -> None:
    """S4: deletion needs a yes, can be taken back, and a hold forbids it."""
    machine = machines("gpu-3")
    (machine.root / "file").write_text("kept")
    server.run("source", "add", "gpu-3", "/root", "--label", "team=vision")
    server.run("schedule", "add", "gpu-3:/root", "--every", "6", "--keep-last", "3", "--name", "s")
    snapshot = server.json("schedule", "run", "s", "--wait")["snapshot"]["id"]
    refused = server.run("snapshot", "delete", snapshot, status=2)
    assert "--yes" in refused.stderr
    server.run("snapshot", "hold", snapshot, "a paper depends on it")
    held = json.loads(server.run("snapshot", "delete", snapshot, "-y", "--json", status=11).stderr)
    assert held["error"] == "in_use"
    server.run("snapshot", "release", snapshot, "--yes")
    deleted = server.json("snapshot", "delete", snapshot, "--yes")["snapshot"]
    assert deleted["status"] == "DELETED"
    assert server.json("snapshot", "recover", snapshot)["snapshot"]["status"] == "COMPLETED"


def test_schedules_are_paused_changed_and_say_when_they_are_due(
    server: RunningServer, machines: Callable[[str], Machine]
) -> None:
    """B1 B3: a configuration can be changed, paused and removed."""
    machines("gpu-4")
    server.run("source", "add", "gpu-4", "/root")
    made = ("schedule", "add", "gpu-4:/root", "--cron", "30 2 * * *", "--keep-days", "7")
    server.run(*made, "--name", "c", "--timezone", "Europe/Berlin")
    assert server.run(*made, "--preset", "daily", status=2).stderr
    server.run("schedule", "pause", "c")
    assert server.json("schedule", "show", "c")["schedule"]["due_at"] is None
    server.run("schedule", "resume", "c")
    changed = server.json("schedule", "edit", "c", "--every", "12", "--keep-weekly", "4")
    assert changed["schedule"]["interval_hours"] == 12
    assert len(server.json("schedule", "next", "c", "--count", "2")["due"]) == 2
    server.run("schedule", "remove", "c", "--yes")
    assert server.run("schedule", "show", "c", status=4).stderr


def test_no_secret_is_in_the_log(server: RunningServer) -> None:
    """I3: structured lines with request ids and nothing that opens a door."""
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    assert any(line.get("request_id") for line in lines)
    login = json.loads(
        (server.directory / "home" / ".config" / "holdfast" / "login.json").read_text()
    )
    secrets = [
        login["token"],
        (server.data / "owner.password").read_text().strip(),
        (server.data / "gateway.credential").read_text().strip(),
        json.loads((server.data / "agent" / "credential").read_text())["credential"],
    ]
    for secret in secrets:
        assert secret not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_when_asked_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    running = RunningServer(tmp_path)
    try:
        running.start()
        eventually(lambda: bool(running.children()), "there is no agent beside it")
        assert running.stop(number) == 0
        eventually(lambda: not running.children(), "a child is left")
        assert "Traceback" not in running.log
    finally:
        running.kill_all()


def test_after_a_kill_the_next_start_goes_on_where_it_was(tmp_path: Path) -> None:
    running = RunningServer(tmp_path)
    try:
        running.start()
        running.login()
        account = running.json("whoami")["me"]["account_id"]
        running.kill()
        eventually(lambda: not running.children(), "the agent outlives its server")
        running.start()
        assert running.announced["first_start"] is False
        running.login()
        assert running.json("whoami")["me"]["account_id"] == account
        eventually(
            lambda: (
                [each["status"] for each in running.json("host", "list")["hosts"]] == ["online"]
            ),
            "the embedded agent did not come back, or enrolled twice",
        )
        rotated = running.json("master-key", "rotate", "--data-directory", running.data, "--yes")
        assert rotated["master_key"]["keys"] == 2
        logged_out = running.json("logout")["logout"]
        assert logged_out["revoked"] is True
        running.run("whoami", status=20)
        assert running.stop() == 0
    finally:
        running.kill_all()


def test_parts_run_alone_and_meet_in_the_database(tmp_path: Path) -> None:
    api = RunningServer(tmp_path)
    gateway = RunningServer(tmp_path / "gateway")
    gateway.directory.mkdir()
    try:
        api.start("--only", "api")
        assert api.announced["parts"] == ["api"]
        gateway.data.mkdir(mode=0o700)
        credential = gateway.data / "gateway.credential"
        credential.write_text((api.data / "gateway.credential").read_text())
        gateway.variables["HOLDFAST_SERVER_CONTROL_URL"] = api.url
        gateway.start("--only", "gateway")
        place = f"{gateway.url}/restic/{uuid4()}/config"
        asked = httpx.get(place, auth=("any", "hf_" + "x" * 43))
        assert asked.status_code == 401
        assert httpx.get(f"{gateway.url}/api/v1/hosts").status_code == 404
        assert api.stop() == 0
        assert gateway.stop() == 0
    finally:
        api.kill_all()
        gateway.kill_all()
