"""Measure lists of a bucket with 100,000 objects, through the S3 service.

`holdfast up` answers, on SQLite and on PostgreSQL; the rows of the objects are put into its
database directly, as nothing but lists is measured. Requests are presigned, and timed from
sending to the last byte: an S3 client takes longer to parse a page than this takes to make
it. Prints a table as it is in RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import boto3
import httpx
import postgresql_server
import report
from botocore.config import Config
from sqlalchemy import insert, select, update

from holdfast.control.database import Database
from holdfast.control.tables import Bucket, StoredObject
from holdfast.sdk.sign_in import sign_in

BUCKET = "many"
_AT_ONCE = 10_000
_DIRECTORIES = 100


def main() -> None:
    options = _options()
    os.makedirs(options.work, exist_ok=True)
    facts = report.machine() | {"disk": report.disk_of(options.work)}
    facts["load average, before"] = f"{os.getloadavg()[0]:.1f}"
    found = dict(_measured(options))
    print("\n".join(f"- {name}: {value}" for name, value in facts.items()), end="\n\n")
    print(f"| milliseconds, median / worst of {options.rounds} | {' | '.join(found)} |")
    print("|---|" + "---:|" * len(found))
    for case in next(iter(found.values())):
        cells = (
            f"{1e3 * statistics.median(each[case]):.0f} / {1e3 * max(each[case]):.0f}"
            for each in found.values()
        )
        print(f"| {case} | {' | '.join(cells)} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=os.path.abspath, required=True, help="for the databases")
    parser.add_argument("--objects", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=30)
    return parser.parse_args()


def _measured(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, list[float]]]]:
    directory = os.path.join(options.work, "sqlite")
    yield "SQLite", _measured_on(options, directory, f"sqlite:///{directory}/control.db")
    binaries = postgresql_server.programs()
    if binaries is None:
        print("PostgreSQL is not here (apt-get install postgresql): left out", file=sys.stderr)
        return
    with postgresql_server.running(binaries, os.path.join(options.work, "cluster")) as server:
        server.sql("DROP DATABASE IF EXISTS control")
        server.sql("CREATE DATABASE control")
        directory = os.path.join(options.work, "postgresql")
        yield "PostgreSQL", _measured_on(options, directory, server.url("control"))


def _measured_on(
    options: argparse.Namespace, directory: str, database: str
) -> dict[str, list[float]]:
    os.makedirs(directory)
    with _serving(directory, {"HOLDFAST_SERVER_DATABASE_URL": database}) as announced:
        with open(announced["password_file"], encoding="utf-8") as file:
            password = file.read().strip()
        url, email = announced["url"], announced["owner_email"]
        secret = sign_in(url, email, password, token_name="benchmark").secret
        client = boto3.client(
            "s3",
            endpoint_url=f"{url}/s3",
            aws_access_key_id=email,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(
                signature_version="s3v4", retries={"mode": "standard", "total_max_attempts": 1}
            ),
        )
        client.create_bucket(Bucket=BUCKET)
        _fill(database, options.objects)
        return _timed(client, options.objects, options.rounds)


@contextlib.contextmanager
def _serving(directory: str, variables: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "holdfast", "up", "--json", "--port", "0"]
    with open(os.path.join(directory, "server.log"), "wb") as log:
        process = subprocess.Popen(
            [*command, "--data-directory", os.path.join(directory, "data")],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **variables},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start; see {directory}/server.log")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def _fill(url: str, count: int) -> None:
    database = Database(url)
    now = datetime.now(UTC)
    with database.write() as tx:
        bucket_id = tx.scalars(select(Bucket.id).where(Bucket.name == BUCKET)).one()
        tx.execute(update(Bucket).where(Bucket.id == bucket_id).values(objects=count))
    for begin in range(0, count, _AT_ONCE):
        rows = [
            {
                "id": str(uuid4()),
                "bucket_id": bucket_id,
                "key": key_of(number),
                "hidden": False,
                "size_bytes": number,
                "etag": f"{number:032x}",
                "content_type": "binary/octet-stream",
                "headers": {},
                "bodies": [],
                "modified_at": now,
            }
            for number in range(begin, min(begin + _AT_ONCE, count))
        ]
        with database.write() as tx:
            tx.execute(insert(StoredObject), rows)
    if not database.is_sqlite:
        # As its own autovacuum does within minutes.
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql("VACUUM ANALYZE")
    database.close()


def key_of(number: int) -> str:
    return f"run-{number % _DIRECTORIES:03}/field-{number:07}.npy"


def _timed(client: Any, count: int, rounds: int) -> dict[str, list[float]]:
    deep = f"run-{_DIRECTORIES // 2:03}/field-{count // 2:07}.npy"
    cases: dict[str, tuple[str, dict[str, str]]] = {
        "first page, 1,000 keys": ("list_objects_v2", {}),
        "page in the middle, 1,000 keys": ("list_objects_v2", {"StartAfter": deep}),
        "version 1, by marker, 1,000 keys": ("list_objects", {"Marker": deep}),
        "one directory of 1,000 keys": ("list_objects_v2", {"Prefix": "run-042/"}),
        "top level by delimiter, 100 directories": ("list_objects_v2", {"Delimiter": "/"}),
        "a prefix that nothing has": ("list_objects_v2", {"Prefix": "zzz"}),
    }
    addresses = {
        case: client.generate_presigned_url(verb, {"Bucket": BUCKET, **parameters})
        for case, (verb, parameters) in cases.items()
    }
    found: dict[str, list[float]] = {case: [] for case in cases}
    with httpx.Client(timeout=60) as http:
        for address in addresses.values():
            http.get(address).raise_for_status()
        for _ in range(rounds):
            for case, address in addresses.items():
                started = time.perf_counter()
                http.get(address).raise_for_status()
                found[case].append(time.perf_counter() - started)
    started = time.perf_counter()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = sum(len(page.get("Contents", ())) for page in pages)
    assert keys == count, f"{keys} of {count} keys were listed"
    found[f"all {count:,} keys by boto3, page by page"] = [time.perf_counter() - started]
    return found


if __name__ == "__main__":
    main()
