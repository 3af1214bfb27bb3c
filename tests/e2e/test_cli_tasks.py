"""Tasks, their snapshots and buckets on the command line, against ``holdfast up``.

Spec lines: T1, T2, T3, T4, T5, T7, T8, T9, T12.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
from running_server import PROGRAM, RunningServer

from holdfast.agent.jobs.task_directory import task_directories
from holdfast.cli import main
from holdfast.runners.choice import runner_for

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("up")]

BIG_BYTES = 30_000_000
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ODD_KEYS = (
    "plain",
    "odd ü#?%2F name&+.txt",
    "a/../b//c/",
    " lead/./x ",
    "/abs",
    "..",
    ".",
    "line\nbreak",
)


class Server(RunningServer):
    """Its commands run in this process, which takes a tenth of the time; see `RunningServer`."""

    def run(
        self,
        *arguments: str | Path,
        status: int = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        written = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
        with (
            patch.dict(os.environ, {**self.environment, **variables}, clear=True),
            contextlib.chdir(self.directory),
            contextlib.redirect_stdout(written[0]),
            contextlib.redirect_stderr(written[1]),
        ):
            found = main.run([str(each) for each in arguments])
        out, err = (each.buffer.getvalue().decode("utf-8", "replace") for each in written)
        assert found == status, (arguments, found, out, err)
        return subprocess.CompletedProcess(arguments, found, out, err)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("tasks"), {"HOLDFAST_SERVER_TASK_SLOTS": "4"})
    caught = {number: signal.getsignal(number) for number in _SIGNALS}
    made.start()
    try:
        made.login()
        yield made
    finally:
        made.stop()
        made.kill_all()
        for directory in task_directories(str(made.data / "agent/tasks")):
            runner_for("local").remove(directory.place)
        for number, handler in caught.items():
            signal.signal(number, handler)


def until(what: Callable[[], Any], seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)
    return found


@contextmanager
def running(server: Server, name: str, command: str, *more: str | Path) -> Iterator[str]:
    """A task that has done its `command` and stays; its id."""
    task = server.json(
        *("task", "submit", name, *more),
        *("--command", f"{command}; echo ready; exec sleep 600"),
    )["task"]
    task_id = str(task["id"])
    count = task["instance_count"]
    until(lambda: server.run("task", "output", task_id).stdout.count("ready\n") == count)
    try:
        yield task_id
    finally:
        server.run("task", "abort", task_id, "--yes")
        server.run("task", "wait", task_id, status=130)


def test_a_task_from_submission_to_its_end(server: Server, tmp_path: Path) -> None:
    """T1, T2: what is submitted is what is run, listed and shown; its output comes as written."""
    server.run("bucket", "create", "inputs")
    (tmp_path / "n").write_text("twenty\n")
    server.run("bucket", "put", "inputs", tmp_path / "n", "--key", "data/n")
    (host,) = server.json("host", "list")["hosts"]
    go = tmp_path / "go"
    command = (
        "cat n; echo $GREETING; printf 'b\\377d \\303'; echo problem >&2; mkdir out skip;"
        f" while ! [ -e {go} ]; do sleep 0.1; done; printf '\\274\\n'; "
        "echo 1 > out/a; echo 2 > skip/b"
    )
    said = server.run(
        *("task", "submit", "life", "--command", command, "--constant", "GREETING=hello world"),
        *("--input", "inputs/data/", "--result-bucket", "life-results", "--on", host["name"]),
        *("--short-name", "the-life", "--tag", "one", "--tag", "two", "--label", "team=vision"),
        *("--results-whitelist", "^(out|skip)/", "--results-blacklist", "^skip/"),
        *("--time-limit", "300"),
    ).stdout
    task_id = said.split()[1]
    assert said == f"task {task_id} is Submitted\n"
    until(lambda: "problem" in server.run("task", "output", "life", "--stderr").stdout)
    for narrowed in (("--tag", "two"), ("--label", "team=vision"), ("--search", "the-l")):
        (found,) = server.json("task", "list", *narrowed)["tasks"]
        assert found["id"] == task_id
    assert server.json("task", "list", "--state", "Success")["tasks"] == []
    shown = server.run("task", "show", "the-life").stdout
    for part in ("GREETING=hello world", "inputs/data/", "one, two", "executing", host["id"]):
        assert part in shown
    assert server.json("task", "show", task_id)["instances"][0]["stderr_bytes"] == 8

    following = subprocess.Popen(
        [PROGRAM, "task", "output", "life", "--follow"],
        stdout=subprocess.PIPE,
        env=server.environment,
    )
    assert following.stdout is not None
    begun = os.read(following.stdout.fileno(), 1)
    go.touch()
    whole = begun + following.communicate(timeout=60)[0]
    assert following.returncode == 0
    assert whole == b"twenty\nhello world\nb\377d \303\274\n"
    assert server.json("task", "wait", "life")["task"]["state"] == "Success"
    assert server.run("task", "wait", "life").stdout == "life: Success\n"
    (result,) = server.json("bucket", "ls", "life-results")["objects"]
    assert (result["key"], result["size_bytes"]) == ("out/a", 2)
    refused = server.run("task", "preview", "life", status=11)
    assert "executes" in refused.stderr
    server.run("task", "delete", "life", status=2)
    assert "its snapshots stay" in server.run("task", "delete", "the-life", "-y").stdout
    server.run("task", "show", "life", status=4)


def test_the_status_says_how_a_task_ended(server: Server) -> None:
    server.run("task", "submit", "bad", "--command", "exit 7", "--instances", "2")
    failed = server.run("task", "wait", "bad", status=6)
    assert "bad has failed: instance 0: " in failed.stderr
    assert "instance 1: " in failed.stderr
    assert "7" in failed.stderr
    assert '"error": "task_failed"' in server.run("task", "wait", "bad", "--json", status=6).stderr
    assert server.json("task", "show", "bad")["instances"][1]["exit_code"] == 7
    with running(server, "ended", "true") as task_id:
        server.run("task", "abort", task_id, status=2)


def test_snapshots_are_taken_looked_at_and_changed(server: Server, tmp_path: Path) -> None:
    """T3, T4, T5, T7: with filters, a place, a caption; once and again and again."""
    command = "echo 1 > a.txt; echo 2 > b.npy; echo 3 > c.npy"
    with running(server, "snap", command, "--result-bucket", "snap-results") as task_id:
        seen = server.json("task", "preview", "snap", "--whitelist", r"\.npy$", "--blacklist", "^c")
        assert seen["preview"]["entries"] == [{"path": "b.npy", "bytes": 2}]
        assert "1 file, 2 B" in server.run("task", "preview", "snap", "--whitelist", "txt").stdout

        said = server.run(
            *("task", "snapshot", "snap", "--wait", "--label", "first", "--notes", "n"),
            *("--whitelist", r"\.npy$", "--blacklist", "^c", "--bucket-prefix", "kept/"),
        ).stdout
        first = said.split()[1]
        assert f"snapshot {first} in snap-results/kept/2" in said
        assert "1 file, 2 B" in said
        shown = server.json("task-snapshot", "show", first)["task_snapshot"]
        assert (shown["label"], shown["notes"], shown["status"]) == ("first", "n", "success")
        assert [each["instance"] for each in shown["parts"]] == [0]
        key = f"{shown['directory']}b.npy"
        assert key.startswith("kept/")
        (listed,) = server.json("bucket", "ls", "snap-results", "--prefix", "kept/")["objects"]
        assert listed["key"] == key
        server.run("bucket", "get", "snap-results", key, "-o", tmp_path / "b")
        assert (tmp_path / "b").read_text() == "2\n"

        server.run("bucket", "create", "elsewhere")
        second = server.json("task", "snapshot", task_id, "--wait", "--bucket", "elsewhere")
        assert second["task_snapshot"]["bucket"] == "elsewhere"
        second_id = second["task_snapshot"]["id"]
        differing = server.run("task-snapshot", "diff", first, second_id).stdout
        assert "+  a.txt" in differing
        assert "b.npy" not in differing
        assert "2 differences" in differing
        server.run("task-snapshot", "download", f"{first}:b.npy", "-o", tmp_path / "c")
        assert (tmp_path / "c").read_text() == "2\n"
        assert server.run("task-snapshot", "download", f"{first}:b.npy", "-o", "-").stdout == "2\n"
        server.run("task-snapshot", "download", second_id, "-o", tmp_path / "all.zip")
        assert "c.npy" in " ".join(zipfile.ZipFile(tmp_path / "all.zip").namelist())
        taken = server.run("task-snapshot", "download", second_id, "-o", tmp_path / "c", status=19)
        assert "is there already" in taken.stderr

        server.run("task-snapshot", "edit", first, "--label", "converged")
        assert "converged" in server.run("task-snapshot", "show", first).stdout
        server.run("task-snapshot", "edit", first, status=2)

        said = server.run("task", "periodic", "snap", "--every", "1", "--whitelist", "^a").stdout
        assert said == "snap takes a snapshot every 1 s\n"

        def periodic() -> Any:
            listed = server.json("task", "snapshots", "snap")["task_snapshots"]
            return [e for e in listed if e["trigger"] == "periodic" and e["status"] == "success"][
                1:
            ]

        found = until(periodic)[0]
        assert found["parts"][0]["files"] == 1
        assert "no periodic" in server.run("task", "periodic", "snap", "--stop").stdout
        assert server.json("task", "show", "snap")["task"]["periodic_seconds"] is None
        assert "periodic" in server.run("task", "snapshots", "snap").stdout
        assert "parts" in server.run("task-snapshot", "delete", found["id"], "--yes").stdout
        listed = server.json("task", "snapshots", "snap", "--limit", "all")["task_snapshots"]
        (deleted,) = [each for each in listed if each["id"] == found["id"]]
        assert deleted["parts"][0]["status"] == "DELETED"
        assert "deleted" in server.run("task", "snapshots", "snap").stdout


def test_each_instance_has_its_part(server: Server) -> None:
    """T12: the number behind a snapshot is that of the instance."""
    with running(server, "many", "echo $INSTANCE_ID > number", "--instances", "3") as task_id:
        assert server.run("task", "output", "many", "--instance", "2").stdout == "ready\n"
        refused = server.run("task", "output", "many", "--instance", "3", status=4)
        assert "no instance 3" in refused.stderr
        taken = server.json("task", "snapshot", task_id, "--wait")["task_snapshot"]["id"]
        for number in "012":
            of_it = f"{taken}#{number}:number"
            assert server.run("task-snapshot", "download", of_it, "-o", "-").stdout == f"{number}\n"
        assert "M  number" in server.run("task-snapshot", "diff", f"{taken}#0", f"{taken}#2").stdout
        for wrong in (taken, f"{taken}#", f"{taken}#3", f"{taken}#x"):
            refused = server.run("task-snapshot", "download", wrong, status=2)
            assert "#0, #1, #2" in refused.stderr


def test_a_task_goes_on_from_a_snapshot(server: Server) -> None:
    """T9: from its last one, or from one that is named; as it was submitted."""
    command = "echo $STEP >> steps; cat steps"
    with running(server, "first", command, "--constant", "STEP=x", "--tag", "kept") as task_id:
        none = server.run("task", "restart", task_id, status=4)
        assert "no finished snapshot" in none.stderr
        earlier = server.json("task", "snapshot", task_id, "--wait")["task_snapshot"]["id"]
        server.run("task", "snapshot", task_id, "--wait", "--whitelist", "^nothing$")
        for more, output in (((), "x\nready\n"), (("--from", earlier), "x\nx\nready\n")):
            again = server.json("task", "restart", task_id, *more)["task"]
            assert again["tags"] == ["kept"]
            written = partial(server.run, "task", "output", again["id"])
            until(lambda: "ready" in written().stdout)  # noqa: B023 called at once
            assert written().stdout == output
            server.run("task", "abort", again["id"], "--yes")
        third = server.json(
            *("task", "submit", "third", "--command", "cat steps", "--starts-from", earlier)
        )["task"]["id"]
        server.run("task", "wait", third)
        assert server.run("task", "output", third).stdout == "x\n"


def test_what_is_to_be_said_of_a_snapshot_is_said(server: Server) -> None:
    """T8: a large snapshot is complete, and the command says how large it is."""
    command = "truncate -s 1000000001 sparse"
    with running(server, "large", command) as task_id:
        done = server.run("task", "snapshot", task_id, "--wait", status=3)
        assert "1,000,000,001 bytes" in done.stderr
        assert "[snapshot_large]" in done.stderr
        taken = done.stdout.split()[1].rstrip(":")
        assert "1,000,000,001 bytes" in server.run("task-snapshot", "show", taken).stdout
        assert "1,000,000,001 bytes" in server.run("task", "show", task_id).stdout


def test_objects_of_all_sorts_of_names(server: Server, tmp_path: Path) -> None:
    name = "shelf"
    assert server.run("bucket", "create", name).stdout == "the bucket shelf is there\n"
    server.run("bucket", "create", name)
    for number, key in enumerate(ODD_KEYS):
        (tmp_path / "file").write_text(str(number))
        server.run("bucket", "put", name, tmp_path / "file", "--key", key)
    listed = server.json("bucket", "ls", name)["objects"]
    assert [each["key"] for each in listed] == sorted(ODD_KEYS, key=str.encode)
    assert len(server.json("bucket", "ls", name, "--prefix", "a/")["objects"]) == 1
    assert "there are more" in server.run("bucket", "ls", name, "--limit", "2").stdout
    (bucket,) = [e for e in server.json("bucket", "list")["buckets"] if e["name"] == name]
    assert (bucket["objects"], bucket["stored_bytes"]) == (len(ODD_KEYS), len(ODD_KEYS))
    for number, key in enumerate(ODD_KEYS):
        target = tmp_path / f"got-{number}"
        server.run("bucket", "get", name, key, "-o", target)
        assert target.read_text() == str(number)
    server.run("bucket", "rm", name, ODD_KEYS[1], status=2)
    for key in (*ODD_KEYS[1:], ODD_KEYS[1]):
        server.run("bucket", "rm", name, key, "--yes")
    assert [e["key"] for e in server.json("bucket", "ls", name)["objects"]] == ["plain"]
    full = server.run("bucket", "remove", name, "--yes", status=11)
    assert "empty" in full.stderr
    server.run("bucket", "remove", name, "--yes", "--contents")
    server.run("bucket", "ls", name, status=4)


def test_a_large_object_takes_little_memory_and_survives_lost_connections(
    server: Server, tmp_path: Path
) -> None:
    content = os.urandom(1 << 20) * (BIG_BYTES >> 20)
    (tmp_path / "big").write_bytes(content)
    server.run("bucket", "create", "heavy")
    small = peak_bytes(server, "bucket", "ls", "heavy")
    put = peak_bytes(server, "bucket", "put", "heavy", str(tmp_path / "big"))
    assert put - small < len(content) // 2
    token = server.json("token", "create", "proxied", "--right", "read", "--right", "restore")
    with cut_connections(server.url, after_bytes=len(content) // 3) as (url, served):
        known = {"HOLDFAST_URL": url, "HOLDFAST_TOKEN": token["issued"]["secret"]}
        got = peak_bytes(
            server, "bucket", "get", "heavy", "big", "-o", str(tmp_path / "back"), variables=known
        )
    assert got - small < len(content) // 2
    assert (tmp_path / "back").read_bytes() == content
    assert served[0] < len(content) * 1.5, "it went on where it was"
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("task", "show", "nobody"), 4, "holdfast task list"),
        (("task", "submit", "x"), 2, "COMMAND"),
        (("task", "submit", "x", "--command", "true", "--constant", "A"), 2, "NAME=VALUE"),
        (("task", "submit", "x", "--command", "true", "--constant", "a-b=1"), 2, "a-b"),
        (("task", "submit", "x", "--command", "true", "--profile", "vm"), 2, "batch"),
        (("task", "submit", "x", "--command", "true", "--on", "nowhere"), 4, "holdfast host list"),
        (("task", "submit", "x", "--command", "true", "--snapshot-whitelist", "("), 2, "missing )"),
        (("task", "submit", "x", "--command", "true", "--input", "not-there"), 4, "not-there"),
        (("task", "submit", "x", "--command", "true", "--snapshot-every", "0"), 2, "second"),
        (("task", "submit", "x", "--command", "true", "--starts-from", "zzzz"), 4, "zzzz"),
        (("task", "snapshot", "nobody"), 4, "holdfast task list"),
        (("task", "restart", "nobody"), 4, "holdfast task list"),
        (("task", "periodic", "nobody"), 2, "--every SECONDS"),
        (("task", "list", "--state", "Odd"), 2, "Success"),
        (("task-snapshot", "show", "abcd"), 4, "holdfast task snapshots TASK"),
        (("task-snapshot", "download", "abcd:x"), 4, "holdfast task snapshots TASK"),
        (("task-snapshot", "delete", "abcd", "--yes"), 4, "holdfast task snapshots TASK"),
        (("bucket", "create", "No Such Name"), 2, "lower case"),
        (("bucket", "ls", "nowhere"), 4, "nowhere"),
        (("bucket", "get", "nowhere", "x"), 4, "nowhere"),
        (("bucket", "put", "nowhere", "."), 2, "no file"),
        (("bucket", "put", "nowhere", "not-there"), 18, "not-there"),
        (("bucket", "put", "nowhere", "server.log", "--key", "/"), 4, "nowhere"),
        (("bucket", "put", "nowhere", "server.log", "--key", "b\udcff"), 2, "UTF-8"),
        (("bucket", "rm", "nowhere", "x", "--yes"), 4, "nowhere"),
    ],
)
def test_an_error_says_what_to_do(
    server: Server, arguments: tuple[str, ...], status: int, said: str
) -> None:
    found = server.run(*arguments, status=status)
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    as_json = server.run(*arguments, "--json", status=status)
    assert as_json.stderr.startswith('{"error": ')
    assert as_json.stdout == ""


def test_a_token_that_reads_may_look_and_no_more(server: Server) -> None:
    token = server.json("token", "create", "looking", "--right", "read")["issued"]["secret"]
    known = {"HOLDFAST_TOKEN": token, "HOLDFAST_URL": server.url}
    server.run("bucket", "create", "guarded")
    server.run("bucket", "put", "guarded", "server.log")
    server.run("task", "list", variables=known)
    server.run("task", "profiles", variables=known)
    assert server.json("bucket", "ls", "guarded", variables=known)["objects"]
    for arguments in (
        ("task", "submit", "x", "--command", "true"),
        ("bucket", "create", "another"),
        ("bucket", "put", "guarded", "server.log"),
        ("bucket", "get", "guarded", "server.log", "-o", "not-kept"),
        ("bucket", "rm", "guarded", "server.log", "--yes"),
        ("bucket", "remove", "guarded", "--yes"),
    ):
        assert "right" in server.run(*arguments, status=21, variables=known).stderr
    assert not (server.directory / "not-kept").exists()


def test_profiles_name_their_constants(server: Server) -> None:
    said = server.run("task", "profiles").stdout
    assert "DOCKER_REPO" in said
    names = {each["name"] for each in server.json("task", "profiles")["profiles"]}
    assert names == {"batch", "docker-batch", "slurm-batch"}


def peak_bytes(server: Server, *arguments: str, variables: dict[str, str] | None = None) -> int:
    """Run a command; the most memory that it had."""
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd=server.directory,
        env={**server.environment, **(variables or {})},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


@contextmanager
def cut_connections(url: str, *, after_bytes: int) -> Iterator[tuple[str, list[int]]]:
    """A way to `url` that loses two connections after so many bytes; counts all bytes."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    listener = socket.create_server(("127.0.0.1", 0))
    served, left = [0], [2]

    def answer(near: socket.socket) -> None:
        with near, socket.create_connection((host, port)) as far:
            back = threading.Thread(target=_pump, args=(near, far, lambda _count: True))
            back.start()
            passed = 0

            def count(size: int) -> bool:
                nonlocal passed
                passed += size
                served[0] += size
                if passed < after_bytes or not left[0]:
                    return True
                left[0] -= 1
                return False

            _pump(far, near, count)
            back.join()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=answer, args=(listener.accept()[0],)))
                threads[-1].start()

    threads = [threading.Thread(target=accept)]
    threads[0].start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", served
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for each in threads:
            each.join()
        listener.close()


def _pump(source: socket.socket, target: socket.socket, go_on: Callable[[int], bool]) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
            if not go_on(len(data)):
                break
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
