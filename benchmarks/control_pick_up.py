"""How soon a job is picked up while many agents poll and send heartbeats.

The agents are a process of their own (`control_agents.py`). Times are of the machine's
monotonic clock, which all processes share. A job that no agent gets within a minute counts
as infinitely late, and is never left out.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import control_agents
import httpx
from control_catalog import Filled
from control_requests import API, percentiles
from measured_server import KEYS, Server
from sqlalchemy import select

from holdfast.control import snapshots
from holdfast.control.database import Database
from holdfast.control.principal import ALL_RIGHTS, Principal
from holdfast.control.tables import Schedule

_SETTLE_SECONDS = 60
"""Until every agent has come, and half of them have asked a second time."""
_LONGEST_SECONDS = 60
_ACCEPTED = 202


def measure_pick_up(
    server: Server, database: Database, filled: Filled, *, jobs: int, burst: int
) -> dict[str, Any]:
    """From asking for a run until an agent has it, while all agents poll and live."""
    flock = _Flock(server.url, filled.agents)
    try:
        flock.listen(_SETTLE_SECONDS)
        flock.heartbeats.clear()
        # No host twice: an agent that still works on its first job cannot take another one.
        asked = random.Random(7).sample(filled.agents, jobs + burst)
        one_by_one = _by_api(server.url, flock, asked[:jobs])
        heartbeats = list(flock.heartbeats)
        at_once = _elsewhere(database, flock, asked[jobs:])
        return {
            "agents": len(filled.agents),
            "one": percentiles(one_by_one),
            "burst": percentiles(at_once),
            "heartbeat": percentiles(heartbeats),
            "trouble": flock.trouble,
        }
    finally:
        flock.end()


class _Flock:
    """All agents, and what they told."""

    def __init__(self, url: str, agents: list[dict[str, str]]) -> None:
        self.claimed: dict[str, float] = {}
        self.heartbeats: list[float] = []
        self.trouble: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, control_agents.__file__, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(agents).encode())
        self._process.stdin.close()
        self._told = self._process.stdout.fileno()
        os.set_blocking(self._told, False)
        self._rest = b""

    def listen(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Take in what they tell for so long, or until it is enough."""
        until = time.monotonic() + seconds
        while not enough() and time.monotonic() < until:
            try:
                piece = os.read(self._told, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            if not piece:
                raise SystemExit("the agents have ended")
            *lines, self._rest = (self._rest + piece).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def pick_ups(self, wanted: list[str], started: float) -> list[float]:
        """The seconds from `started` until an agent had each of these runs."""
        self.listen(_LONGEST_SECONDS, lambda: all(each in self.claimed for each in wanted))
        return [self.claimed.get(each, float("inf")) - started for each in wanted]

    def _take(self, told: dict[str, Any]) -> None:
        match told:
            case {"claimed": snapshot_id, "at": at}:
                self.claimed[snapshot_id] = at
            case {"heartbeat": seconds}:
                self.heartbeats.append(seconds)
            case {"trouble": words}:
                self.trouble.append(words)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def _by_api(url: str, flock: _Flock, agents: list[dict[str, str]]) -> list[float]:
    """Ask for a run of a host's schedule, wait until its agent has it, and so on."""
    taken = []
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        for agent in agents:
            headers = {"Authorization": f"Bearer {agent['token']}"}
            started = time.monotonic()
            answer = client.post(f"{API}/schedules/{agent['schedule']}/run", headers=headers)
            if answer.status_code != _ACCEPTED:
                raise SystemExit(f"run: {answer.status_code} {answer.text[:500]}")
            taken += flock.pick_ups([answer.json()["id"]], started)
            flock.listen(random.uniform(0, 0.2))
    return taken


def _elsewhere(database: Database, flock: _Flock, agents: list[dict[str, str]]) -> list[float]:
    """Runs of several accounts' hosts in one transaction of another process than the server.

    So a replica's clockwork begins them; the server finds out by looking.
    """
    now, wanted = datetime.now(UTC), []
    with database.write() as tx:
        for agent in agents:
            account_id, source_id = tx.execute(
                select(Schedule.account_id, Schedule.source_id).where(
                    Schedule.id == agent["schedule"]
                )
            ).one()
            who = Principal("system", "benchmark", account_id, ALL_RIGHTS)
            run = snapshots.request(tx, who, source_id=source_id, now=now, keys=KEYS)
            wanted.append(run.id)
    return flock.pick_ups(wanted, time.monotonic())
