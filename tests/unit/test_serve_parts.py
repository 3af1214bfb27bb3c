"""Parts of a running server: children, tickers, the lock, the one app, the first start."""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from holdfast.control.database import Database
from holdfast.control.sealing import MasterKeys
from holdfast.errors import InUse, NotFound, UsageError
from holdfast.serve.app import OneApp, Surface
from holdfast.serve.child import Child
from holdfast.serve.first_start import (
    first_start,
    gateway_credential,
    make_directory,
    master_keys,
    read_secret,
    write_secret,
)
from holdfast.serve.instance import only_instance
from holdfast.serve.settings import Settings
from holdfast.serve.ticker import Ticker
from holdfast.serve.up import local_url
from holdfast.serve.web_server import WebServer, listen

NOW = datetime(2026, 11, 2, 10, tzinfo=UTC)


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Children and tickers


def test_a_child_that_ends_is_started_again(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    command = [sys.executable, "-c", f"open({str(marks)!r}, 'a').write('x')"]
    child = Child("test", command, first_pause_seconds=0.01)
    child.start()
    eventually(lambda: marks.exists() and len(marks.read_text()) >= 3)
    child.stop()
    after = marks.read_text()
    time.sleep(0.1)
    assert marks.read_text() == after


def test_a_child_is_stopped_also_when_it_does_not_listen(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(ready)!r}, 'w').close()\n"
        "time.sleep(3600)"  # longer than a test may take
    )
    child = Child("deaf", [sys.executable, "-c", deaf], stop_seconds=0.2)
    child.start()
    eventually(ready.exists)
    child.stop()


def test_a_program_that_is_not_there_is_tried_again() -> None:
    child = Child("nothing", ["/no/such/program"], first_pause_seconds=0.01)
    child.start()
    eventually(lambda: child.starts >= 2)
    child.stop()


def test_a_turn_that_fails_does_not_end_a_ticker() -> None:
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        raise ValueError("no")

    ticker = Ticker("test", 0.005, turn)
    ticker.start()
    eventually(lambda: turns >= 3)
    ticker.stop()
    last = turns
    time.sleep(0.05)
    assert turns == last


# The directory and the port


def test_one_server_for_each_directory(tmp_path: Path) -> None:
    with (
        only_instance(str(tmp_path)),
        pytest.raises(InUse, match=f"process {os.getpid()}"),
        only_instance(str(tmp_path)),
    ):
        pass
    with only_instance(str(tmp_path)):
        pass


def test_the_data_directory_is_for_its_owner(tmp_path: Path) -> None:
    make_directory(str(tmp_path / "new"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UsageError, match="chmod 700"):
        make_directory(str(tmp_path / "open"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be made"):
        make_directory(str(tmp_path / "file"))


def test_a_secret_is_written_whole_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(str(path), "one")
    write_secret(str(path), "two")
    assert read_secret(str(path)) == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_port_that_is_taken() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InUse, match=f"port {port}"):
            listen("127.0.0.1", port)
    with pytest.raises(UsageError, match=r"no\.such\.host"):
        listen("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::", "http://[::1]:1"),
        ("::1", "http://[::1]:1"),
        ("10.0.0.1", "http://10.0.0.1:1"),
    ],
)
def test_how_this_machine_reaches_itself(host: str, url: str) -> None:
    assert local_url(host, 1) == url


# The one app


def app(name: str, lives: list[str]) -> Starlette:
    def answer(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"{name} {request.url.path}")

    @asynccontextmanager
    async def living(_app: object) -> Any:
        lives.append(f"{name} begins")
        yield
        lives.append(f"{name} ends")

    return Starlette(routes=[Route("/{rest:path}", answer)], lifespan=living)


def test_the_path_says_which_app_answers_and_each_lives_once() -> None:
    lives: list[str] = []
    one = OneApp([Surface(app("gateway", lives), ("/restic", "/data")), Surface(app("api", lives))])
    listener = listen("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    web = WebServer(one, listener)
    web.start()
    paths = ["/restic/x", "/restic", "/resticky", "/data/v1", "/api/v1", "/"]
    found = {path: httpx.get(f"{url}{path}").text.split()[0] for path in paths}
    web.stop()
    listener.close()
    assert found == {
        "/restic/x": "gateway",
        "/restic": "gateway",
        "/resticky": "api",
        "/data/v1": "gateway",
        "/api/v1": "api",
        "/": "api",
    }
    assert lives == ["gateway begins", "api begins", "api ends", "gateway ends"]


def test_an_app_that_cannot_begin_is_told() -> None:
    @asynccontextmanager
    async def failing(app: Starlette) -> Any:
        if app.routes == []:
            raise ValueError("no database")
        yield

    listener = listen("127.0.0.1", 0)
    web = WebServer(OneApp([Surface(Starlette(lifespan=failing))]), listener)
    with pytest.raises(Exception, match="did not come up"):
        web.start()
    listener.close()
    assert threading.active_count() >= 1


# The first start


def begun(database: Database, directory: Path) -> tuple[Settings, MasterKeys]:
    settings = Settings(data_directory=str(directory))
    return settings, master_keys(settings, database)


def test_the_first_start_makes_one_account_and_the_second_none(
    database: Database, tmp_path: Path
) -> None:
    settings, keys = begun(database, tmp_path)
    first = first_start(settings, database, keys, now=NOW)
    again = first_start(settings, database, keys, now=NOW)
    assert (first.new, again.new) == (True, False)
    assert first.account_id == again.account_id
    assert stat.S_IMODE(os.stat(first.password_file).st_mode) == 0o600
    credential = gateway_credential(settings, database, first.account_id, now=NOW)
    assert credential == gateway_credential(settings, database, first.account_id, now=NOW)


def test_a_start_that_was_killed_before_its_account_keeps_the_password(
    database: Database, tmp_path: Path
) -> None:
    settings, keys = begun(database, tmp_path)
    write_secret(str(tmp_path / "owner.password"), "a password from before")
    first_start(settings, database, keys, now=NOW)
    assert read_secret(str(tmp_path / "owner.password")) == "a password from before"


def test_a_lost_master_key_is_never_replaced(database: Database, tmp_path: Path) -> None:
    settings, keys = begun(database, tmp_path)
    first_start(settings, database, keys, now=NOW)
    os.unlink(settings.master_key)
    with pytest.raises(NotFound, match="Put back"):
        master_keys(settings, database)
    assert not os.path.exists(settings.master_key)
