"""The agent's small parts: settings, credential, enrolment, spool, inventory, pauses, client."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from control_server import CREDENTIAL, HOST_ID, TOKEN, ControlServer, controlling

from holdfast import errors
from holdfast.agent import AgentSettings, enrol, load, parse_root
from holdfast.agent.client import ControlClient
from holdfast.agent.confinement import remove_if_empty, source_place, target_place
from holdfast.agent.credential import Credential, read_credential, write_credential
from holdfast.agent.inventory import Inventory, gpus
from holdfast.agent.pauses import Pauses
from holdfast.agent.spool import Spool
from holdfast.errors import (
    NameTaken,
    NotSignedIn,
    PathEscapesRoot,
    PathRefused,
    ServerUnavailable,
    SourceVanished,
    StaleAttempt,
    TooManyRequests,
    UsageError,
)
from holdfast.model.guarded_path import Root

# Settings


def test_settings_of_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        'server = "https://holdfast.example.org"\n'
        "max_jobs = 3\n"
        'credential_file = "secret/credential"\n'
        'limit_upload = "20 MiB/s"\n'
        '[[roots]]\npath = "/root"\ndirectory = "/srv/pods/7/root"\n'
        '[[roots]]\npath = "/data/"\n'
    )
    found = load(str(file), {})
    assert found.roots == (Root("/root", "/srv/pods/7/root"), Root("/data", "/data"))
    assert (found.max_jobs, found.limit_upload) == (3, 20 << 20)
    assert found.credential == str(tmp_path / "secret/credential")
    environment = {
        "HOLDFAST_AGENT_SETTINGS": str(file),
        "HOLDFAST_AGENT_ROOTS": "/root=/mnt/root, /scratch",
        "HOLDFAST_AGENT_MAX_JOBS": "5",
        "HOLDFAST_AGENT_PUT_ONLY": "yes",
        "HOLDFAST_AGENT_NAME": "",
    }
    found = load(None, environment, {"max_jobs": 7, "name": None})
    assert found.roots == (Root("/root", "/mnt/root"), Root("/scratch", "/scratch"))
    assert (found.max_jobs, found.put_only) == (7, True)
    assert found.shown_name == socket.gethostname()


def test_defaults() -> None:
    found = load(None, {})
    assert (found.server, found.roots) == ("", ()), "those of the enrolment"
    assert found.credential == "/var/lib/holdfast/agent/credential"
    assert found.put_only is False


@pytest.mark.parametrize(
    "text",
    ['sever = "https://x"', 'server = "holdfast.example.org"', 'server = "https://u:p@host"',
     "max_jobs = 0", "max_jobs = true", 'workers = "two"', "roots = 3", 'roots = ["relative"]',
     'roots = [{path = "/a", directory = "b"}]', 'roots = [{path = "/a/../b"}]',
     'roots = [{directory = "/b"}]', 'put_only = "yes"', 'limit_upload = "fast"',
     "limit_upload = 3", "cancel_grace_seconds = 0", "not toml"],
)  # fmt: skip
def test_settings_that_cannot_be_meant(tmp_path: Path, text: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text + "\n")
    with pytest.raises(UsageError) as caught:
        load(str(file), {})
    assert len(caught.value.message) > 30


def test_an_unknown_name_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_jobs"):
        load(None, {"HOLDFAST_AGENT_MAX_JOB": "3"})
    with pytest.raises(UsageError, match="cannot be read"):
        load(str(tmp_path / "nothing.toml"), {})


def test_roots_as_people_write_them() -> None:
    assert parse_root("/root") == Root("/root", "/root")
    assert parse_root("/root/ = /srv/x/") == Root("/root", "/srv/x")
    with pytest.raises(PathRefused):
        parse_root("root=/srv")


# The credential


def test_a_credential_is_private_and_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "deep/credential")
    write_credential(path, Credential("h", "first", "https://s"))
    write_credential(path, Credential("h", "secret", "https://s"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path / "deep") == ["credential"]
    found = read_credential(path)
    assert found == Credential("h", "secret", "https://s")
    assert "secret" not in repr(found)


def test_a_credential_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "credential"
    write_credential(str(path), Credential("h", "secret", "https://s"))
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        read_credential(str(path))
    with pytest.raises(NotSignedIn, match="enrol"):
        read_credential(str(tmp_path / "nothing"))
    path.write_text("{}")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="again"):
        read_credential(str(path))


# Enrolment


@pytest.fixture(scope="module")
def shared() -> Iterator[ControlServer]:
    with controlling() as server:
        yield server


@pytest.fixture
def control(shared: ControlServer) -> ControlServer:
    shared.token_used = shared.away = shared.revoked = False
    shared.enrolments.clear()
    return shared


def settings(control: ControlServer, tmp_path: Path, **more: object) -> AgentSettings:
    fields: dict[str, object] = {
        "server": control.url,
        "state_directory": str(tmp_path),
        "roots": (Root("/root", str(tmp_path)),),
    }
    return AgentSettings(**{**fields, **more})  # type: ignore[arg-type]


def test_enrolment_puts_the_credential_on_disk(control: ControlServer, tmp_path: Path) -> None:
    """H1: a one-time token for a credential of the host's own."""
    mine = settings(control, tmp_path, name="gpu-7")
    assert enrol(mine, TOKEN).host_id == HOST_ID
    found = read_credential(mine.credential)
    assert (found.secret, found.server, found.name) == (CREDENTIAL, control.url, "gpu-7")
    assert found.roots == mine.roots
    (asked,) = control.enrolments
    assert asked["name"] == "gpu-7"
    assert asked["roots"] == [{"path": "/root", "directory": str(tmp_path)}]
    assert asked["inventory"]["hostname"] == socket.gethostname()
    with pytest.raises(NameTaken):
        enrol(mine, TOKEN)
    with pytest.raises(NotSignedIn):
        enrol(mine, TOKEN, replace=True)
    assert read_credential(mine.credential) == found, "a refusal costs nothing"


def test_a_token_is_not_used_up_where_the_credential_cannot_be_kept(
    control: ControlServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for path in ("/proc/credential", str(tmp_path / "file/credential")):
        with pytest.raises(UsageError, match="Nothing was enrolled"):
            enrol(settings(control, tmp_path, credential_file=path), TOKEN)
    assert control.token_used is False
    with pytest.raises(UsageError, match="which server"):
        enrol(settings(control, tmp_path, server=""), TOKEN)


# The client


def test_errors_are_those_of_the_tree(control: ControlServer) -> None:
    client = ControlClient(control.url, CREDENTIAL)
    try:
        with pytest.raises(errors.NotFound):
            client.progress("nothing", attempt=1, stage="", progress={}, lines=[])
        job = control.add("backup", {}, {})
        with pytest.raises(StaleAttempt):
            client.finish(job.id, {"attempt": 1})
        control.jobs.clear()
        control.away = True
        with pytest.raises(ServerUnavailable):
            client.claim("i", 0)
    finally:
        client.close()
    nobody = ControlClient("http://127.0.0.1:9", "secret")
    try:
        with pytest.raises(ServerUnavailable) as caught:
            nobody.claim("i", 0)
        assert "secret" not in caught.value.message
    finally:
        nobody.close()


def answering(text: bytes) -> tuple[str, threading.Thread]:
    """A server that answers one request with exactly this."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(text)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", ServerUnavailable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", ServerUnavailable),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"job":1}', ServerUnavailable),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", ServerUnavailable),
        (b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", TooManyRequests),
        (b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n", UsageError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort", ServerUnavailable),
        (b"", ServerUnavailable),
    ],
)
def test_answers_that_are_none(text: bytes, kind: type[Exception]) -> None:
    url, thread = answering(text)
    client = ControlClient(url, None)
    try:
        with pytest.raises(kind) as caught:
            client.claim("instance", 0)
        if isinstance(caught.value, TooManyRequests):
            assert caught.value.retry_after_seconds == 7
    finally:
        client.close()
        thread.join()


# The spool


def test_reports_are_kept_until_they_are_settled(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path / "spool"))
    first = spool.put("job-1", {"attempt": 1, "outcome": "succeeded"})
    second = spool.put("job-1", {"attempt": 2, "outcome": "failed"})
    assert Spool(str(tmp_path / "spool")).reports() == [first, second]
    spool.remove(first)
    spool.remove(first)
    assert spool.reports() == [second]
    with pytest.raises(UsageError):
        spool.put("../../etc/passwd", {"attempt": 1})


def test_what_a_crash_left_in_the_spool_is_passed_over(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path))
    report = spool.put("job-1", {"attempt": 1})
    (tmp_path / "job-2-1.json.new").write_bytes(b"{")
    (tmp_path / "job-3-1.json").write_bytes(b"{")
    assert spool.reports() == [report]


# The inventory


def test_what_a_host_tells_of_itself(tmp_path: Path) -> None:
    """H1: kinds, room in each root, GPUs, running workloads."""
    roots = [Root("/root", str(tmp_path)), Root("/gone", str(tmp_path / "gone"))]
    found = Inventory(roots, query=("false",)).document(3)
    assert found["kinds"] == ["path"]
    assert found["cpus"] >= 1
    assert found["memory_bytes"] > 1 << 20
    assert found["workloads"] == {"running_jobs": 3}
    assert found["gpus"] == []
    here, gone = found["roots"]
    assert 0 < here["free_bytes"] <= here["total_bytes"]
    assert gone == {"path": "/gone", "free_bytes": None, "total_bytes": None}


def test_gpus_as_the_driver_lists_them() -> None:
    line = "0, NVIDIA H200, 143771, 12, 570.86.15, GPU-1b2c"
    (found,) = gpus(("echo", line))
    assert found == {
        "index": 0,
        "name": "NVIDIA H200",
        "memory_bytes": 143771 << 20,
        "used_bytes": 12 << 20,
        "driver": "570.86.15",
        "uuid": "GPU-1b2c",
    }
    assert gpus(("echo", "No devices were found")) == []
    assert gpus(("/nowhere/nvidia-smi",)) == []
    assert gpus(("echo", "0, X, [N/A], [N/A], 1, GPU-1"))[0]["memory_bytes"] is None


def test_the_driver_is_not_asked_each_time(tmp_path: Path) -> None:
    now = 0.0
    log = tmp_path / "log"
    query = ("sh", "-c", f"echo x >> {log}; echo '0, N, 1, 1, d, u'")
    inventory = Inventory([], query=query, clock=lambda: now)
    for moment in (0.0, 10.0, 299.0, 301.0):
        now = moment
        assert len(inventory.document(0)["gpus"]) == 1
    assert log.read_text() == "x\nx\n"


# Pauses


def test_pauses_grow_are_shortened_by_chance_and_begin_anew() -> None:
    pauses = Pauses(1.0, 8.0, jitter=lambda: 0.0)
    assert [pauses.next() for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    pauses.reset()
    assert pauses.next(at_least_seconds=5) == 5
    shortened = Pauses(2.0, 8.0, jitter=lambda: 0.999)
    assert 1.0 < shortened.next() < 1.01


# Confinement


def test_where_a_source_really_lies(tmp_path: Path) -> None:
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("root")
    roots = [Root("/data", str(tmp_path / "link")), Root("/data/deep", str(tmp_path / "root/a"))]
    real = os.fsencode(os.path.realpath(tmp_path))
    place = source_place("/data//a/", roots)
    assert (place.path, place.real, place.within) == (
        "/data/a",
        real + b"/root/a",
        real + b"/root",
    )
    assert source_place("/data/deep", roots).within == real + b"/root/a", "the innermost root"
    (tmp_path / "root/loop").symlink_to("loop")
    with pytest.raises((SourceVanished, PathRefused, UsageError)):
        source_place("/data/loop", roots)


def test_a_neighbour_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "rootkit").mkdir()
    (tmp_path / "root/x").symlink_to(tmp_path / "rootkit")
    with pytest.raises(PathEscapesRoot):
        source_place("/root/x", [Root("/root", str(tmp_path / "root"))])


def test_a_target_that_was_made_for_nothing_is_taken_back(tmp_path: Path) -> None:
    roots = [Root("/root", str(tmp_path))]
    place = target_place("/root/deep/er/new", roots)
    assert place.made
    assert stat.S_IMODE(os.stat(place.real).st_mode) == 0o700
    remove_if_empty(place)
    assert not os.path.exists(place.real)
    (tmp_path / "there").mkdir()
    place = target_place("/root/there", roots)
    assert not place.made
    remove_if_empty(place)
    assert os.path.exists(place.real)
