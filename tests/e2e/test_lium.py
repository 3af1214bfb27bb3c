"""Lium's own published command line against this server: ``ps`` and the whole ``bk`` family.

The program is the package ``lium.io``, named by HOLDFAST_LIUM; nothing of it is changed. What
is asserted are its exit status and what it prints, and what became of the files.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.demo.installation import enrolled
from holdfast.demo.processes import Machine, Server
from holdfast.sdk.client import Client
from holdfast.sdk.sign_in import sign_in

LIUM = os.environ.get("HOLDFAST_LIUM", "")
CONFIGURATION_ERROR, API_ERROR, POD_NOT_FOUND = 2, 3, 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("lium"),
    pytest.mark.skipif(
        not os.path.exists(LIUM), reason="HOLDFAST_LIUM names no lium; ./dev test fetches it"
    ),
]


@dataclass
class Pod:
    """One machine that Lium's client takes for a pod, and the client."""

    server: Server
    client: Client
    token: str
    machine: Machine
    home: Path

    def lium(self, *arguments: str, status: int = 0, token: str | None = None) -> str:
        """Run it; its output, both streams, with line breaks of its tables undone."""
        done = subprocess.run(
            [LIUM, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "COLUMNS": "300",
                "LIUM_BASE_URL": f"{self.server.url}/lium/api",
                "LIUM_API_KEY": token or self.token,
                "LIUM_SSH_KEY_PATH": str(self.home / "id_ed25519"),
            },
        )
        output = done.stdout + done.stderr
        assert done.returncode == status, (arguments, done.returncode, output)
        return output

    def newest(self) -> str:
        """The id of the newest backup, as `bk show` prints it."""
        found = re.search(r"id=([0-9a-f]{8})", self.lium("bk", "show", self.machine.name))
        assert found is not None
        return found[1]

    def wait_for(self, backup_id: str, word: str) -> str:
        """The details of a backup once its status is `word`."""
        return eventually(lambda: self._with_status(backup_id, word), f"{backup_id} is {word}")

    def _with_status(self, backup_id: str, word: str) -> str:
        details = self.lium("bk", "logs", "--id", backup_id)
        return details if f"Status: {word}" in details else ""

    def back_up(self, *arguments: str) -> str:
        """Start one; its short id."""
        output = self.lium("bk", "now", self.machine.name, *arguments)
        found = re.search(r"id=([0-9a-f]{8})", output)
        assert found is not None, output
        return found[1]


def eventually(found: Callable[[], str], what: str, seconds: float = 60.0) -> str:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.5)
    return value


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    directory = tmp_path_factory.mktemp("lium")
    home = directory / "home"
    home.mkdir()
    (home / "id_ed25519").write_text("not a key; the client only looks whether there is a file\n")
    (home / "id_ed25519.pub").write_text("ssh-ed25519 AAAA test\n")
    with ExitStack() as stack:
        server = Server(directory / "server")
        stack.callback(server.stop)
        server.start()
        issued = sign_in(server.url, server.email, server.password, token_name="lium")
        client = stack.enter_context(Client(server.url, issued.secret))
        machine = Machine(directory / "machine", "eager-wolf")
        stack.callback(machine.stop)
        enrolled(client, server.url, machine)
        models = machine.root / "models"
        models.mkdir()
        (models / "weights.bin").write_bytes(bytes(range(256)) * 4096)
        (models / "notes.txt").write_text("hold fast\n")
        yield Pod(server, client, issued.secret, machine, home)


def test_ps_lists_the_machine(pod: Pod) -> None:
    listed = json.loads(pod.lium("ps", "--format", "json"))
    ours = next(each for each in listed if each["name"] == "eager-wolf")
    assert ours["status"] == "RUNNING"
    assert "eager-wolf" in pod.lium("ps")


def test_from_set_to_rm(pod: Pod) -> None:
    name = pod.machine.name
    assert "No backup configuration" in pod.lium("bk", "show", name)
    pod.lium("bk", "now", name, status=1)

    output = pod.lium("bk", "set", name, "--path", "/root/models", "--every", "6h", "--keep", "7d")
    assert "path=/root/models, every=6h, keep=7d" in output
    assert "path=/root/models, every=6h, keep=7d" in pod.lium("bk", "show", name)

    # A refused change leaves the old configuration as it was.
    refused = pod.lium(
        "bk", "set", name, "--path", "/etc", "--every", "6h", "--keep", "7d", status=API_ERROR
    )
    assert "outside" in refused
    assert "path=/root/models, every=6h, keep=7d" in pod.lium("bk", "show", name)
    pod.lium("bk", "set", name, "--path", "/root/models", "--every", "1d", "--keep", "30d")
    assert "path=/root/models, every=24h, keep=30d" in pod.lium("bk", "show", name)
    assert len(list(pod.client.schedules.list())) == 1, "it was changed and not made anew"

    backup = pod.back_up("-n", "pre-release", "-d", "before the deploy")
    details = pod.wait_for(backup, "COMPLETED")
    assert "100%" in details
    assert "2/2 files" in details
    assert pod.newest() == backup
    (snapshot,) = pod.client.snapshots.list(search="pre-release")
    assert snapshot.description == "before the deploy"
    assert backup in pod.lium("bk", "logs", name)

    pod.lium("bk", "restore", name, "--id", backup, "--yes")
    restored = eventually(
        lambda: log if "COMPLETED" in (log := pod.lium("bk", "restore-logs", name)) else "",
        "the restore completes",
    )
    assert "/root/restored" in restored or "COMPLETED" in restored
    for file in ("weights.bin", "notes.txt"):
        original = pod.machine.root / "models" / file
        assert next(pod.machine.root.glob(f"restored/**/{file}")).read_bytes() == (
            original.read_bytes()
        )

    # The directory has something in it now: refused by the agent, in the log.
    pod.lium("bk", "restore", name, "--id", backup, "--yes")
    eventually(
        lambda: log if "FAILED" in (log := pod.lium("bk", "restore-logs", name)) else "",
        "the second restore fails",
    )
    pod.lium("bk", "restore", name, "--id", backup, "--to", "/etc/x", "--yes", status=API_ERROR)

    pod.lium("bk", "delete", "--id", backup, "--yes")
    assert "Status: DELETED" in pod.lium("bk", "logs", "--id", backup)
    pod.lium("bk", "restore", name, "--id", "ffffffff", "--yes", status=API_ERROR)

    pod.lium("bk", "rm", name, "--yes")
    assert "No backup configuration" in pod.lium("bk", "show", name)


def test_cancel(pod: Pod) -> None:
    name = pod.machine.name
    pod.lium("bk", "set", name, "--path", "/root/models", "--every", "6h", "--keep", "7d")
    pod.machine.stop()  # so that the run waits
    try:
        backup = pod.back_up()
        assert "Status: PENDING" in pod.lium("bk", "logs", "--id", backup)
        pod.lium("bk", "cancel", "--id", backup, "--yes")
        assert "Status: CANCELLED" in pod.lium("bk", "logs", "--id", backup)
        pod.lium("bk", "cancel", "--id", "ffffffff", "--yes", status=API_ERROR)
    finally:
        assert pod.machine._process is not None
        pod.machine._process.start()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--path", "/root", "--every", "169h", "--keep", "7d"), CONFIGURATION_ERROR),
        (("--path", "/root", "--every", "6h", "--keep", "366d"), CONFIGURATION_ERROR),
        (("--path", "/root/../etc", "--every", "6h", "--keep", "7d"), CONFIGURATION_ERROR),
        (("--path", "/var/log", "--every", "6h", "--keep", "7d"), API_ERROR),
    ],
)
def test_its_own_limits_and_ours(pod: Pod, arguments: tuple[str, ...], status: int) -> None:
    """B2, B3: some are refused by the client itself, the rest here."""
    pod.lium("bk", "set", pod.machine.name, *arguments, status=status)


def test_unknown_pod_and_wrong_key(pod: Pod) -> None:
    pod.lium("bk", "show", "no-such-pod", status=POD_NOT_FOUND)
    wrong = "hf_" + "A" * 43
    assert "Invalid API key" in pod.lium("ps", status=API_ERROR, token=wrong)


def test_a_read_only_key_changes_nothing(pod: Pod) -> None:
    """A2: the rights of a token hold here as everywhere."""
    reader = pod.client.tokens.create(name="reader", rights=["read"]).secret
    assert "eager-wolf" in pod.lium("ps", token=reader)
    before = [each.id for each in pod.client.schedules.list()]
    pod.lium(
        *("bk", "set", pod.machine.name, "--path", "/root/models", "--every", "6h"),
        *("--keep", "7d"),
        status=6,
        token=reader,
    )
    assert [each.id for each in pod.client.schedules.list()] == before


def test_another_accounts_pod_is_not_there(pod: Pod) -> None:
    """A4: an id of somebody else's is an id of nothing."""
    region = next(iter(pod.client.regions.list())).id
    email, password = "other@example.org", "correct horse battery"
    pod.client.accounts.create("other", region, owner_email=email, owner_password=password)
    stranger = sign_in(pod.server.url, email, password, token_name="theirs").secret
    assert "eager-wolf" not in pod.lium("ps", token=stranger)
    with Client(pod.server.url, stranger) as client:
        assert list(client.hosts.list()) == []
    pod.lium("bk", "show", pod.machine.name, status=POD_NOT_FOUND, token=stranger)
