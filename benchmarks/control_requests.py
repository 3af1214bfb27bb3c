"""Every list of the API: its first page, one deep inside, filtered, searched, narrowed.

Requests are made one after the other by one client, in rounds that are apart in time, so that
what else the machine does in one moment does not fall on one of them alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from control_catalog import RARE, Filled
from measured_server import Server

API = "/api/v1"
_DEEP_PAGES = 100
_LARGEST_PAGE = 500
_DONE = 200
_NOWHERE = "nothing says this"

Query = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One request. `cursor` leads to the page that is measured."""

    name: str
    path: str
    query: Query = field(default_factory=dict)
    secret: str = "large"
    cursor: Query = field(default_factory=dict)


@dataclass(slots=True)
class Taken:
    """What was measured of one case; `goes_on`: whether there is another page."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    items: int = 0
    goes_on: bool = False

    def figures(self) -> dict[str, Any]:
        return {
            **percentiles(self.seconds),
            "cpu": statistics.median(self.cpu_seconds),
            "items": self.items,
            "goes_on": self.goes_on,
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Half of them, 95 of 100, and the longest."""
    found = sorted(seconds) or [float("nan")]
    return {
        "p50": statistics.median(found),
        "p95": found[min(len(found) - 1, int(0.95 * len(found)))],
        "max": found[-1],
        "samples": len(seconds),
    }


def measure_requests(
    server: Server, filled: Filled, *, rounds: int, requests: int
) -> dict[str, dict[str, Any]]:
    """The figures of each case, by its name. The first round warms up and does not count."""
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        planned = [*_cases(filled), *_deep_cases(client, filled)]
        taken = {case.name: Taken() for case in planned}
        for number in range(rounds + 1):
            for case in planned:
                one = taken[case.name]
                for _ in range(requests if number else 1):
                    cpu, started = server.cpu_seconds(), time.perf_counter()
                    found = _page(client, case, filled)
                    seconds = time.perf_counter() - started
                    if number:
                        one.seconds.append(seconds)
                        one.cpu_seconds.append(server.cpu_seconds() - cpu)
                    one.items = len(found["items"])
                    one.goes_on = found["next_cursor"] is not None
    return {name: one.figures() for name, one in taken.items()}


def measure_whole_search(server: Server, filled: Filled) -> dict[str, Any]:
    """A search for what hardly any snapshot says, page after page to the end of the list."""
    case, taken, hits = Case("", "snapshots", {"search": RARE}), [], 0
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        while True:
            started = time.perf_counter()
            found = _page(client, case, filled)
            taken.append(time.perf_counter() - started)
            hits += len(found["items"])
            if found["next_cursor"] is None:
                break
            case = replace(case, cursor={"cursor": found["next_cursor"]})
    return {"pages": len(taken), "hits": hits, "seconds": sum(taken), "slowest": max(taken)}


def _page(client: httpx.Client, case: Case, filled: Filled) -> dict[str, Any]:
    answer = client.get(
        f"{API}/{case.path}",
        params=case.query | case.cursor,
        headers={"Authorization": f"Bearer {filled.secrets[case.secret]}"},
    )
    if answer.status_code != _DONE:
        raise SystemExit(f"{case.name}: {answer.status_code} {answer.text[:500]}")
    found: dict[str, Any] = answer.json()
    return found


def _cases(filled: Filled) -> Iterator[Case]:
    for path, queries in _lists(filled).items():
        for query in ({}, *queries):
            yield Case(_named(path, query), path, query)
    yield Case("accounts", "accounts", secret="operator")
    for path in ("snapshots", "jobs", "restores", "sources", "schedules"):
        for name in ("host", "source"):
            yield Case(f"{path}, token for one {name}", path, secret=f"only {name}")
    for path in ("snapshots", "jobs", "restores", "events", "audit", "billing/ledger"):
        yield Case(f"{path}, small account", path, secret="small-0")


def _deep_cases(client: httpx.Client, filled: Filled) -> Iterator[Case]:
    """The long lists 50,000 rows further on, or on their last page."""
    orders: list[Query] = [{"order": each} for each in ("oldest", "name", "-name", "status")]
    long = [("snapshots", query) for query in ({}, *orders)]
    long += [(path, {}) for path in ("jobs", "restores", "events", "audit", "billing/ledger")]
    for path, query in long:
        far = Case("", path, {**query, "limit": _LARGEST_PAGE})
        for _ in range(_DEEP_PAGES):
            following = _page(client, far, filled)["next_cursor"]
            if following is None:
                break
            far = replace(far, cursor={"after_id" if path == "events" else "cursor": following})
        yield Case(f"{_named(path, query)}, deep", path, query, cursor=far.cursor)


def _lists(filled: Filled) -> dict[str, list[Query]]:
    """Each list of the large account, with what it is filtered by."""
    now = datetime.now(UTC)
    return {
        "snapshots": [
            *({"order": each} for each in ("oldest", "name", "-name", "status")),
            {"source_id": filled.source},
            {"schedule_id": filled.schedule},
            {"host_id": filled.host},
            {"kind": "path"},
            {"status": "COMPLETED"},
            {"status": "FAILED,CANCELLED"},
            {"status": "PENDING,RUNNING"},
            {"status": "FAILED", "order": "name"},
            _one_day(now - timedelta(days=60)),
            {"label": "team=vision"},
            {"label": "run=42"},
            {"label": "nowhere"},
            {"search": "checkpoint"},
            {"search": RARE},
            {"search": _NOWHERE},
            {"search": _NOWHERE, "order": "name"},
            {"search": _NOWHERE, "source_id": filled.source},
            {"limit": _LARGEST_PAGE},
        ],
        "sources": [{"host_id": filled.host}, {"search": _NOWHERE}, {"removed": "true"}],
        "schedules": [{"host_id": filled.host}, {"source_id": filled.source}, {"removed": "true"}],
        "hosts": [{"search": "gpu-0099"}],
        "jobs": [
            *({"state": each} for each in ("queued", "failed", "succeeded")),
            {"kind": "prune"},
            {"kind": "measure"},
            {"subject_id": filled.snapshot},
        ],
        "restores": [
            {"host_id": filled.host},
            {"snapshot_id": filled.snapshot},
            {"status": "FAILED"},
            {"status": "PENDING"},
        ],
        "events": [{"kinds": "snapshot.failed"}, {"kinds": "host.silent"}],
        "audit": [
            {"subject_id": filled.snapshot},
            {"action": "schedule.edit"},
            {"action": "nothing.like_it"},
        ],
        "billing/ledger": [
            {"kind": "once"},
            {"kind": "credit"},
            {"resource_id": filled.source},
            _one_day(now - timedelta(days=5)),
        ],
        f"webhooks/{filled.webhook}/deliveries": [],
        f"snapshots/{filled.snapshot}/holds": [],
        f"snapshots/{filled.snapshot}/log": [],
        f"jobs/{filled.job_with_log}/log": [],
        **{each: [] for each in ("tokens", "members", "webhooks")},
        **{each: [] for each in ("regions", "repositories", "prices")},
    }


def _one_day(since: datetime) -> Query:
    return {"since": since.isoformat(), "until": (since + timedelta(days=1)).isoformat()}


def _named(path: str, query: Query) -> str:
    """How a case is called in a table: without ids."""
    shown = "/".join("*" if len(each) == 36 else each for each in path.split("/"))
    if "since" in query:
        return f"{shown} of one day"
    given = (f"{name}={'*' if name.endswith('_id') else value}" for name, value in query.items())
    return " ".join((shown, *given))
