"""The queue of jobs in front of a long history."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

from control_runs import Runs
from control_world import World
from sqlalchemy import func, insert, select, text

from holdfast.control import job_claim, job_end
from holdfast.control.database import Database
from holdfast.control.tables import Job


def test_a_long_history_costs_a_claim_nothing(world: World) -> None:
    """With 30,000 jobs that have ended, the queue is found by its index."""
    runs, host = Runs(world), world.add_host()
    keeper = world.add_host(world.operator_account, keeper=True)
    source = world.add_source(host)
    old = {
        "account_id": world.account.id,
        "region_id": world.region.id,
        "kind": "backup",
        "subject_kind": "snapshot",
        "subject_id": "old",
        "lock_key": f"source:{source.id}",
        "not_before": world.now,
        "created_at": world.now,
        "host_id": None,
        "state": "succeeded",
        "attempt": 1,
    }
    with world.database.write() as tx:
        tx.execute(insert(Job), [old | {"id": "1", "host_id": host.id}, old | {"id": "2"}])
        columns = [column for column in Job.__table__.columns if column.key != "id"]
        for letter in ascii_lowercase[:14]:  # each time as many again
            more = select(Job.id.concat(letter), *columns)
            names = ["id", *(column.key for column in columns)]
            tx.execute(insert(Job).from_select(names, more, include_defaults=False))
        assert (tx.scalar(select(func.count()).select_from(Job)) or 0) > 30_000
        # And others' queues, because an empty one is quick whatever is asked of it.
        queued = old | {"state": "queued", "attempt": 0}
        tx.execute(
            insert(Job),
            [queued | {"id": f"q{n}", "host_id": f"host {n % 50}"} for n in range(1000)],
        )
    if not world.database.is_sqlite:
        with world.database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
    for each in (host, keeper):
        plan = _plan(world.database, job_claim.claimable(each, now=world.now).limit(1))
        # A keeper's may be read by the state alone: then it is the length of the queue.
        assert "ix_jobs_state_" in plan, plan
        assert each.keeper or "ix_jobs_state_host_id_not_before" in plan, plan
        assert "uq_jobs_lock_key_leased" in plan, plan
        _check_no_scan(plan)
    _check_no_scan(_plan(world.database, job_end.overdue(world.now).limit(100)))
    runs.add(source)
    assert runs.claim(host) is not None
    assert runs.expire() == 0


def _plan(database: Database, statement: Any) -> str:
    with database.read() as tx:
        compiled = statement.compile(tx.get_bind(), compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if database.is_sqlite else "EXPLAIN"
        rows = tx.execute(text(f"{explain} {compiled}".replace(":", r"\:"))).all()
    return "\n".join(str(row[-1]) for row in rows)


def _check_no_scan(plan: str) -> None:
    for line in plan.splitlines():
        assert "SCAN jobs" not in line, plan
        assert "Seq Scan on jobs" not in line, plan
        assert "ix_jobs_account_id_created_at_id" not in line, plan
