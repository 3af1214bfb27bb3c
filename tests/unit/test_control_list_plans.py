"""Lists are read from an index in their order: nothing is scanned whole and nothing is sorted.

Asked of the databases themselves, so that a filter or an order that no index answers is found
without a large catalog and without a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from control_world import World
from sqlalchemy import event

from holdfast.control import (
    audit,
    drills,
    events,
    hosts,
    jobs,
    ledger,
    restores,
    schedules,
    snapshots,
    sources,
    tasks,
    tokens,
)
from holdfast.control.database import Database
from holdfast.control.paging import Page
from holdfast.control.tables import Snapshot

# PostgreSQL reads a table of three rows whole, whatever indexes there are, unless it must not.
_CHEAPER = ("seqscan", "bitmapscan", "sort", "incremental_sort", "hashjoin", "mergejoin")
_ID = "00000000-0000-0000-0000-000000000000"

_BY_TIME: list[dict[str, Any]] = [
    {},
    {"source_id": _ID},
    {"schedule_id": _ID},
    {"host_id": _ID},
    {"copy_of": _ID},
    {"copies": True},
    {"copies": True, "source_id": _ID},
    {"source_id": _ID, "schedule_id": _ID, "host_id": _ID},
    {"status": "FAILED"},
    {"status": ["FAILED", "CANCELLED"]},
    {"source_id": _ID, "status": "FAILED"},
    {"kind": "path"},
    {"label": "team=vision"},
    {"search": "word"},
]
_SNAPSHOTS = [
    *({"order": order} | filters for order in ("newest", "oldest") for filters in _BY_TIME),
    *(
        {"order": order} | filters
        for order in ("name", "-name", "status")
        for filters in ({}, {"source_id": _ID}, {"status": "FAILED"}, {"search": "word"})
    ),
]
_OTHERS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    *((jobs.jobs, each) for each in ({}, {"state": "failed"}, {"kind": "prune"})),
    *((jobs.jobs, {"subject_id": _ID, "state": each}) for each in (None, "failed")),
    *((restores.restores, each) for each in ({}, {"host_id": _ID}, {"snapshot_id": _ID})),
    (restores.restores, {"host_id": _ID, "snapshot_id": _ID, "status": "FAILED"}),
    *((drills.drills, each) for each in ({}, {"snapshot_id": _ID}, {"schedule_id": _ID})),
    (drills.drills, {"snapshot_id": _ID, "schedule_id": _ID, "status": "FAILED"}),
    *((audit.entries, each) for each in ({}, {"subject_id": "x"}, {"action": "x"})),
    *((ledger.entries, each) for each in ({}, {"kind": "once"}, {"resource_id": _ID})),
    *((events.listed, each) for each in ({}, {"kinds": ["host.silent"]})),
    *((sources.sources, each) for each in ({}, {"search": "x"}, {"host_id": _ID})),
    *(
        (tasks.tasks, each)
        for each in ({}, {"state": "Success"}, {"tag": "x"}, {"label": "a=b"}, {"search": "x"})
    ),
    (schedules.schedules, {}),
    *((hosts.hosts, each) for each in ({}, {"search": "x"})),
    (tokens.tokens, {}),
]


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """What is sent to the database in the block."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, text: str, values: Any, *_: Any) -> None:
        if text.startswith("SELECT") and "advisory" not in text:
            sent.append((text, values))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def plan(database: Database, text: str, values: Any) -> list[str]:
    with database.engine.connect() as connection:
        if database.is_sqlite:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values).all()
        else:
            for each in _CHEAPER:
                connection.exec_driver_sql(f"SET LOCAL enable_{each} = off")
            rows = connection.exec_driver_sql(f"EXPLAIN {text}", values).all()
    return [str(row[-1]) for row in rows]


def check(database: Database, sent: list[tuple[str, Any]]) -> None:
    """Every one of them reads its table by an index, and in the order of that index."""
    assert sent
    for text, values in sent:
        found = plan(database, text, values)
        shown = "\n".join([text, str(values), *found])
        assert not any("Sort" in line or "TEMP B-TREE" in line for line in found), shown
        assert not any("Seq Scan" in line for line in found), shown
        # Taking a JSON document apart is a scan, too; there is no table in it.
        scans = [line for line in found if line.startswith("SCAN ") and "VIRTUAL" not in line]
        assert not scans, shown


def pages(world: World, read: Callable[..., Any], filters: dict[str, Any]) -> None:
    """Read the first page and, where there is one, what follows it."""
    if read in {audit.entries, tokens.tokens}:
        filters = {"cursor": None, "limit": 1} | filters
    with world.database.read() as tx:
        found = read(tx, world.principal(), **filters)
        if isinstance(found, Page) and found.next_cursor is not None and read is not events.listed:
            read(tx, world.principal(), **{**filters, "cursor": found.next_cursor})


@pytest.fixture
def some_snapshots(world: World) -> list[Snapshot]:
    source, repository = world.add_source(world.add_host()), world.add_repository()
    return [
        world.add_snapshot(source, repository, created_at=world.advance(hours=1)) for _ in range(3)
    ]


@pytest.mark.parametrize("filters", _SNAPSHOTS, ids=str)
def test_s2_a_list_of_snapshots_is_read_in_the_order_of_an_index(
    world: World, some_snapshots: list[Snapshot], filters: dict[str, Any]
) -> None:
    row = some_snapshots[0]
    same = {"source_id": row.source_id, "host_id": row.host_id}
    filters = {name: same.get(name, value) for name, value in filters.items()}
    with statements(world.database) as sent:
        pages(world, snapshots.snapshots, {"limit": 1} | filters)
    check(world.database, sent)


@pytest.mark.parametrize(
    ("read", "lead", "index"),
    [
        (snapshots.snapshots, "copy_of", "ix_snapshots_copy_of_id_created_at_id"),
        (snapshots.snapshots, "source_id", "ix_snapshots_source_id_created_at_id"),
        (snapshots.snapshots, "schedule_id", "ix_snapshots_schedule_id_created_at_id"),
        (snapshots.snapshots, "host_id", "ix_snapshots_host_id_created_at_id"),
        (snapshots.snapshots, "status", "ix_snapshots_account_id_status_created_at_id"),
        (jobs.jobs, "subject_id", "ix_jobs_subject_id_created_at_id"),
        (jobs.jobs, "state", "ix_jobs_account_id_state_created_at_id"),
        (restores.restores, "snapshot_id", "ix_restores_snapshot_id_created_at_id"),
        (restores.restores, "host_id", "ix_restores_host_id_created_at_id"),
        (drills.drills, "snapshot_id", "ix_drills_snapshot_id_created_at_id"),
        (drills.drills, "schedule_id", "ix_drills_schedule_id_created_at_id"),
        (sources.sources, "host_id", "ix_sources_host_id_created_at_id"),
        (ledger.entries, "resource_id", "ix_ledger_resource_id_hour_id"),
        (audit.entries, "subject_id", "ix_audit_account_id_subject_id_id"),
    ],
)
def test_s2_a_filter_leads_by_its_own_index(
    world: World, read: Callable[..., Any], lead: str, index: str
) -> None:
    """Also where SQLite, which keeps no statistics, thinks the account's index as good."""
    if not world.database.is_sqlite:
        pytest.skip("PostgreSQL has statistics, and chooses by them")
    with statements(world.database) as sent:
        pages(world, read, {lead: "FAILED" if lead in {"state", "status"} else _ID})
    for text, values in sent:
        found = plan(world.database, text, values)
        assert any(index in line for line in found), found


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_s2_a_span_of_time_is_a_part_of_the_index(
    world: World, some_snapshots: list[Snapshot], order: str
) -> None:
    del some_snapshots
    span = {"since": world.now - timedelta(hours=1), "until": world.now + timedelta(hours=1)}
    with statements(world.database) as sent:
        # Copies, too: leaving them out is a sieve, and a sieve asks a question more.
        pages(world, snapshots.snapshots, {"limit": 1, "order": order, "copies": True} | span)
    assert len(sent) == 2
    check(world.database, sent)


@pytest.mark.parametrize("narrow", ["kinds", "resources"])
def test_a3_a_narrowed_token_reads_the_same_index(
    world: World, some_snapshots: list[Snapshot], narrow: str
) -> None:
    if narrow == "kinds":
        who = world.principal(kinds=frozenset({"path"}))
    else:
        who = world.principal(resources=frozenset({some_snapshots[0].source_id}))
    reads: list[Callable[..., Any]] = [
        snapshots.snapshots,
        jobs.jobs,
        restores.restores,
        drills.drills,
    ]
    for read in reads:
        with statements(world.database) as sent, world.database.read() as tx:
            read(tx, who, limit=1)
        check(world.database, sent)


@pytest.mark.parametrize(
    ("read", "filters"), _OTHERS, ids=[f"{read.__module__[17:]} {by}" for read, by in _OTHERS]
)
def test_every_other_list_is_read_in_the_order_of_an_index(
    world: World, read: Callable[..., Any], filters: dict[str, Any]
) -> None:
    with statements(world.database) as sent:
        pages(world, read, filters)
    check(world.database, sent)
