"""Measure the control plane with 100,000 snapshots: its lists, and how soon a job is picked up.

A real server answers over HTTP, on SQLite and on PostgreSQL; without PostgreSQL's programs
that part is said and left out. The databases are made once, in --work, and kept. Prints
tables as they are in RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import postgresql_server
import report
from control_catalog import Filled, Sizes, fill
from control_pick_up import measure_pick_up
from control_requests import measure_requests, measure_whole_search
from measured_server import KEYS, serving

from holdfast.control.database import Database

GOAL_SECONDS = 0.1
_PARTS = ("lists", "agents")
_Results = dict[str, dict[str, Any]]


def main() -> None:
    options = _options()
    # Ended from outside, it still ends the servers that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.makedirs(options.work, exist_ok=True)
    results = dict(_measured(options))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    facts = report.machine() | {"disk": report.disk_of(options.work)}
    if options.scale != 1:
        facts["size"] = f"{options.scale:g} of the full one"
    for name, found in results.items():
        averages = " / ".join(f"{each:.1f}" for each in found["load_average"])
        facts[f"load average of the machine with {name}, before and after"] = averages
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), end="\n\n")
    print("\n".join([*_of_lists(results), *_of_agents(results)]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=os.path.abspath, required=True, help="for the databases")
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--part", choices=_PARTS, action="append")
    parser.add_argument("--scale", type=float, default=1.0, help="a part of all, for a trial")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=6, help="of each case in a round")
    parser.add_argument("--jobs", type=int, default=150, help="runs asked for one by one")
    parser.add_argument("--burst", type=int, default=100, help="runs that begin at once")
    parser.add_argument("--json", help="keep all figures in this file")
    return parser.parse_args()


def _measured(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    if options.only != "postgresql":
        yield "SQLite", _measured_on(options, f"sqlite:///{options.work}/control.db", None)
    if options.only == "sqlite":
        return
    binaries = postgresql_server.programs()
    if binaries is None:
        print("PostgreSQL is not here (apt-get install postgresql): left out", file=sys.stderr)
        return
    directory = os.path.join(options.work, "postgresql")
    with postgresql_server.running(binaries, directory) as server:
        if not os.path.exists(_notes(options, "postgresql")):
            server.sql("DROP DATABASE IF EXISTS control")
            server.sql("CREATE DATABASE control")
        yield "PostgreSQL", _measured_on(options, server.url("control"), server.pid)


def _measured_on(options: argparse.Namespace, url: str, database_pid: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {"load_average": []}
    database = Database(url)
    filled = _prepared(options, database)
    parts = options.part or _PARTS
    found["load_average"].append(os.getloadavg()[0])
    if "lists" in parts:
        with serving(options.work, url, database_pid) as server:
            found["lists"] = measure_requests(
                server, filled, rounds=options.rounds, requests=options.requests
            )
            found["whole_search"] = measure_whole_search(server, filled)
        found["load_average"].append(os.getloadavg()[0])
    if "agents" in parts:
        with serving(options.work, url, database_pid) as server:
            found["agents"] = measure_pick_up(
                server, database, filled, jobs=options.jobs, burst=options.burst
            )
        found["load_average"].append(os.getloadavg()[0])
    database.close()
    return found


def _notes(options: argparse.Namespace, name: str) -> str:
    return os.path.join(options.work, f"{name}.json")


def _prepared(options: argparse.Namespace, database: Database) -> Filled:
    """Fill the database where that was not done before; its notes are written last."""
    name = database.engine.dialect.name
    notes = _notes(options, name)
    if not os.path.exists(notes):
        if database.is_sqlite and os.path.exists(f"{options.work}/control.db"):
            raise SystemExit(f"{options.work}/control.db is there and not whole; remove it")
        started = time.monotonic()
        sizes = Sizes(**{each: int(n * options.scale) for each, n in asdict(Sizes()).items()})
        filled = fill(database, KEYS, sizes)
        if not database.is_sqlite:
            # As its own autovacuum does within minutes.
            with database.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.exec_driver_sql("VACUUM ANALYZE")
        with open(f"{notes}.part", "w", encoding="utf-8") as file:
            file.write(filled.as_json())
        os.rename(f"{notes}.part", notes)
        print(f"filled {name} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    with open(notes, encoding="utf-8") as file:
        return Filled.from_json(file.read())


def _with(results: _Results, part: str) -> dict[str, Any]:
    return {name: found[part] for name, found in results.items() if part in found}


def _of_lists(results: _Results) -> Iterator[str]:
    of = _with(results, "lists")
    if not of:
        return
    yield "Milliseconds of one request; CPU: of server and database together, median."
    yield f"Over {GOAL_SECONDS * 1e3:.0f}: **bold**. `+`: another page follows."
    yield ""
    yield f"| request | items | {' | '.join(f'{n} median | worst | CPU' for n in of)} |"
    yield "|---|---:|" + "---:|---:|---:|" * len(of)
    for case, first in next(iter(of.values())).items():
        cells = [case, f"{first['items']}{'+' if first['goes_on'] else ''}"]
        for figures in of.values():
            cells += [_milliseconds(figures[case][each]) for each in ("p50", "max", "cpu")]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for name, figures in of.items():
        slow = max(figures.items(), key=lambda each: each[1]["p50"])
        worst = max(figures.items(), key=lambda each: each[1]["max"])
        taken = sum(each["samples"] for each in figures.values())
        yield (
            f"{name}: {taken:,} requests of {len(figures)} kinds; slowest median "
            f"{_milliseconds(slow[1]['p50'])} ({slow[0]}), worst of all "
            f"{_milliseconds(worst[1]['max'])} ({worst[0]})."
        )
    for name, whole in _with(results, "whole_search").items():
        yield (
            f"A search for a rare word to the end of the list, {name}: {whole['hits']} found in "
            f"{whole['pages']} pages and {whole['seconds']:.2f} s, the slowest page "
            f"{_milliseconds(whole['slowest'])}."
        )
    yield ""


def _milliseconds(seconds: float) -> str:
    shown = f"{1e3 * seconds:.0f}"
    return f"**{shown}**" if seconds > GOAL_SECONDS else shown


def _of_agents(results: _Results) -> Iterator[str]:
    of = _with(results, "agents")
    if not of:
        return
    number = next(iter(of.values()))["agents"]
    yield f"| {number:,} agents, seconds: median / p95 / worst (of) | {' | '.join(of)} |"
    yield "|---|" + "---:|" * len(of)
    rows = {
        "job asked for through the API, one by one, until an agent has it": "one",
        "jobs made in one transaction by another process, until agents have them": "burst",
        "heartbeat until answered": "heartbeat",
    }
    for said, name in rows.items():
        cells = [
            f"{each['p50']:.3f} / {each['p95']:.3f} / {each['max']:.3f} ({each['samples']:,})"
            for each in (figures[name] for figures in of.values())
        ]
        yield f"| {said} | {' | '.join(cells)} |"
    troubles = [trouble for figures in of.values() for trouble in figures["trouble"]]
    yield f"\nRequests of agents that failed: {len(troubles)}."
    yield from troubles[:5]


if __name__ == "__main__":
    main()
