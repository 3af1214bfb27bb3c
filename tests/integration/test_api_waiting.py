"""Waiting, over real connections: agents that poll for work, and screens that watch events."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from api_world import UNLIMITED, Api, caught_log
from control_world import World
from sqlalchemy import event as sql_event

from holdfast.control import events, jobs, tokens
from holdfast.control.tables import Host, Job

INSTANCE = "8c5ff5bf-0f6c-4bd0-8c5b-0f5f4d1d1c11"
PATIENT = replace(
    UNLIMITED,
    longest_wait_seconds=30,
    stream_seconds=200,
    stream_poll_seconds=0.05,
    heartbeat_seconds=0.2,
    streams_per_account=2,
)


@pytest.fixture
def patient(world: World) -> Iterator[tuple[Api, str]]:
    """An API behind a real server, and its address."""
    api = Api(world, limits=PATIENT)
    with caught_log(api.log), api.serving() as address:
        yield api, address
    api.close()


def enqueue(world: World, host: Host | None, key: str = "key") -> Job:
    with world.database.write() as tx:
        return jobs.enqueue(
            tx,
            account_id=world.account.id,
            region_id=world.region.id,
            repository_id=None,
            host_id=host.id if host else None,
            kind="measure",
            subject_kind="repository",
            subject_id="0" * 36,
            lock_key=key,
            spec={},
            now=world.now,
        )


def claim(
    address: str, secret: str, seconds: float = 30, *, patience_seconds: float = 100
) -> httpx.Response:
    """Ask for work. Who is not woken in that time gets 204, whatever work there is by then."""
    return httpx.post(
        f"{address}/api/v1/agent/claim",
        json={"instance": INSTANCE, "wait_seconds": seconds},
        headers={"Authorization": f"Bearer {secret}"},
        timeout=patience_seconds,
    )


def eventually(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def until_waiting(api: Api, agents: int) -> None:
    """Until so many agents have looked for work in vain."""
    bells = api.deployment.wakeups._bells
    pool: Any = api.world.database.engine.pool
    idle = 0

    def is_idle() -> bool:
        nonlocal idle
        idle = idle + 1 if len(bells) >= agents and pool.checkedout() == 0 else 0
        return idle >= 10

    eventually(is_idle)


def test_an_agent_that_waits_is_woken_for_what_another_process_made(
    patient: tuple[Api, str],
) -> None:
    api, address = patient
    host = api.world.add_host()
    secret = api.agent_token(host)
    answers: list[httpx.Response] = []
    agent = threading.Thread(target=lambda: answers.append(claim(address, secret)))
    agent.start()
    until_waiting(api, 1)
    assert not answers, "there is no work yet"
    job = enqueue(api.world, host)
    agent.join()

    (answer,) = answers
    assert answer.status_code == 200
    assert answer.json()["job"]["id"] == job.id
    assert answer.json()["job"]["lease_seconds"] == 60
    assert answer.json()["repository"] is None


def test_what_this_process_makes_is_taken_without_waiting_for_the_poller(
    world: World,
) -> None:
    api = Api(world, limits=PATIENT)
    api.deployment.wakeups._poll_seconds = 1000.0
    host = world.add_host()
    source = world.add_source(host)
    world.add_repository()
    secret, owner = api.agent_token(host), api.token()
    try:
        with caught_log(api.log), api.serving() as address:
            answers: list[httpx.Response] = []
            agent = threading.Thread(target=lambda: answers.append(claim(address, secret)))
            agent.start()
            until_waiting(api, 1)
            snapshot = httpx.post(
                f"{address}/api/v1/snapshots",
                json={"source_id": source.id},
                headers={"Authorization": f"Bearer {owner}"},
            )
            assert snapshot.status_code == 202
            agent.join()
            assert answers[0].status_code == 200
            taken = answers[0].json()
            assert taken["job"]["spec"]["snapshot_id"] == snapshot.json()["id"]
            repository = taken["repository"]
            assert repository["password"] == "repository password"
            assert repository["url"] == f"https://data.example.org/restic/{repository['id']}/"
    finally:
        api.close()


def test_a_poll_without_work_ends_when_it_was_asked_to(patient: tuple[Api, str]) -> None:
    api, address = patient
    secret = api.agent_token(api.world.add_host())
    began = time.monotonic()
    # Far less than the longest wait, which an agent gets that is not listened to.
    assert claim(address, secret, 0.4, patience_seconds=20).status_code == 204
    assert time.monotonic() - began > 0.3


def test_keepers_are_woken_for_a_regions_work_and_other_hosts_are_not(
    patient: tuple[Api, str],
) -> None:
    api, address = patient
    world = api.world
    keeper = world.add_host(world.operator_account, keeper=True)
    plain = world.add_host()
    secrets = [api.agent_token(keeper), api.agent_token(plain)]
    answers: dict[int, int] = {}

    def wait(number: int) -> None:
        answers[number] = claim(address, secrets[number]).status_code

    agents = [threading.Thread(target=wait, args=(number,)) for number in range(2)]
    for agent in agents:
        agent.start()
    until_waiting(api, 2)
    enqueue(world, None)
    agents[0].join()
    api.deployment.wakeups.close()
    agents[1].join()
    assert answers == {0: 200, 1: 204}


def test_a_job_is_not_leased_to_an_agent_that_hung_up(patient: tuple[Api, str]) -> None:
    api, address = patient
    host = api.world.add_host()
    secret = api.agent_token(host)
    where = httpx.URL(address)
    body = json.dumps({"instance": INSTANCE, "wait_seconds": 30})
    with socket.create_connection((where.host, where.port or 80)) as agent:
        agent.sendall(
            "POST /api/v1/agent/claim HTTP/1.1\r\n"
            f"Host: {where.host}\r\nAuthorization: Bearer {secret}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        until_waiting(api, 1)
    job = enqueue(api.world, host)
    eventually(lambda: not api.deployment.wakeups._bells)
    assert api.world.again(job).state == "queued"
    assert claim(address, secret).json()["job"]["id"] == job.id


@pytest.mark.slow
def test_hundreds_of_agents_wait_and_only_the_one_with_work_looks_for_it(
    patient: tuple[Api, str],
) -> None:
    """Or the database would be asked hundreds of times for each job."""
    api, address = patient
    world, wakeups = api.world, api.deployment.wakeups
    usual_seconds, wakeups._poll_seconds = wakeups._poll_seconds, 1000.0
    secrets: list[tuple[Host, str]] = []
    with world.database.write() as tx:
        for number in range(300):
            host = Host(
                account_id=world.account.id,
                region_id=world.region.id,
                name=f"agent-{number}",
                created_at=world.now,
                enrolled_at=world.now,
                roots=[],
            )
            tx.add(host)
            tx.flush()
            secrets.append((host, tokens.issue_for_host(tx, host, now=world.now)))

    statements = 0

    def count(*_: Any) -> None:
        nonlocal statements
        statements += 1

    async def everybody() -> None:
        limits = httpx.Limits(max_connections=400, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=100) as client:

            async def poll(secret: str) -> int:
                answer = await client.post(
                    "/api/v1/agent/claim",
                    json={"instance": INSTANCE, "wait_seconds": 30},
                    headers={"Authorization": f"Bearer {secret}"},
                )
                return answer.status_code

            polls = [asyncio.create_task(poll(secret)) for _, secret in secrets]
            await asyncio.to_thread(until_waiting, api, len(secrets))
            chosen = 150
            sql_event.listen(world.database.engine, "before_cursor_execute", count)
            await asyncio.to_thread(enqueue, world, secrets[chosen][0])
            wakeups._poll_seconds = usual_seconds
            wakeups.nudge()
            assert await polls[chosen] == 200
            sql_event.remove(world.database.engine, "before_cursor_execute", count)
            wakeups.close()
            others = await asyncio.gather(*polls[:chosen], *polls[chosen + 1 :])
            assert set(others) == {204}

    asyncio.run(everybody())
    assert 0 < statements < len(secrets) / 2


# Events


def emit(world: World, number: int) -> int:
    with world.database.write() as tx:
        return events.emit(
            tx,
            world.account.id,
            "snapshot.failed",
            "snapshot",
            f"subject-{number}",
            f"number {number}",
            now=world.now,
        ).id


class Screen:
    """One that watches the stream, as a browser would."""

    def __init__(self, address: str, secret: str, **headers: str) -> None:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self._client = httpx.Client(timeout=60)
        self._context = self._client.stream(
            "GET",
            f"{address}/api/v1/events/stream",
            headers={"Authorization": f"Bearer {secret}", **given},
        )
        self.answer = self._context.__enter__()
        self._lines = self.answer.iter_lines()

    def until_begun(self) -> None:
        """Read the first line, which tells that this one is counted."""
        assert next(self._lines).startswith("retry")

    def next_event(self) -> dict[str, Any] | None:
        """The next event; None where the stream ended."""
        fields: dict[str, str] = {}
        for line in self._lines:
            name, _, value = line.partition(": ")
            if not line and "data" in fields:
                return {**fields, "data": json.loads(fields["data"])}
            if name:
                fields[name] = value
        return None

    def close(self) -> None:
        self._context.__exit__(None, None, None)
        self._client.close()


def test_a_screen_sees_events_as_they_happen(patient: tuple[Api, str]) -> None:
    """S7: a live stream for screens."""
    api, address = patient
    emit(api.world, 0)
    screen = Screen(address, api.token())
    assert screen.answer.headers["Content-Type"].startswith("text/event-stream")
    screen.until_begun()
    event_id = emit(api.world, 1)
    seen = screen.next_event()
    screen.close()
    assert seen is not None, "what happened before is not told"
    assert (seen["id"], seen["event"]) == (str(event_id), "snapshot.failed")
    assert seen["data"]["message"] == "number 1"
    assert seen["data"]["at"].endswith("Z")


def test_a_screen_that_was_away_misses_nothing(patient: tuple[Api, str]) -> None:
    """S7: it goes on after Last-Event-ID."""
    api, address = patient
    secret = api.token()
    ids = [emit(api.world, number) for number in range(5)]
    other = api.world.add_account("Other")
    screen = Screen(address, secret, Last_Event_ID=str(ids[1]))
    seen = [screen.next_event() for _ in range(3)]
    screen.close()
    assert [each and each["data"]["message"] for each in seen] == [
        "number 2",
        "number 3",
        "number 4",
    ]
    stranger = Screen(address, api.token(other), Last_Event_ID="0")
    emit(api.world, 5)
    assert "number" not in next(stranger.answer.iter_text(), "")
    stranger.close()


def test_a_revoked_token_sees_nothing_more(patient: tuple[Api, str]) -> None:
    api, address = patient
    secret = api.token()
    screen = Screen(address, secret)
    with api.world.database.write() as tx:
        found = tokens.find(tx, secret)
        assert found is not None
        found.revoked_at = api.world.now
    assert screen.next_event() is None, "the stream ends"
    screen.close()


def test_an_account_does_not_take_every_place(patient: tuple[Api, str]) -> None:
    """A6: open streams are limited, too."""
    api, address = patient
    secret = api.token()
    screens = [Screen(address, secret) for _ in range(2)]
    for screen in screens:
        screen.until_begun()
    third = Screen(address, secret)
    assert third.answer.status_code == 429
    third.close()
    screens.pop().close()

    def is_let_in() -> bool:
        again = Screen(address, secret)
        again.close()
        return again.answer.status_code == 200

    eventually(is_let_in)
    screens.pop().close()


def test_the_list_of_events_goes_on_where_it_ended(api: Api) -> None:
    ids = [emit(api.world, number) for number in range(5)]
    owner = api.owner()
    first = owner.get("/api/v1/events", params={"limit": 2}).json()
    assert [each["id"] for each in first["items"]] == ids[:2]
    rest = owner.get("/api/v1/events", params={"after_id": first["next_cursor"]}).json()
    assert [each["id"] for each in rest["items"]] == ids[2:]
    assert rest["next_cursor"] is None
    none = owner.get("/api/v1/events", params={"kinds": "snapshot.completed,host.silent"}).json()
    assert none["items"] == []
    wrong = owner.get("/api/v1/events", params={"kinds": "nonsense"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "usage")
