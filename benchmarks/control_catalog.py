"""A control plane's database as it is after months: rows written in bulk, past the services.

One large account has what is measured; smaller ones beside it have the rest of the hosts,
so that what is quick only for whoever owns most rows is found out. Nothing here is timed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import control_records
from control_records import RARE_KIND, Row
from sqlalchemy import insert

from holdfast.control import append_only, tokens
from holdfast.control.database import Database
from holdfast.control.principal import ALL_RIGHTS
from holdfast.control.sealing import MasterKeys, context_of
from holdfast.control.tables import (
    Account,
    AuditEntry,
    Base,
    Delivery,
    Event,
    Hold,
    Host,
    Job,
    JobLine,
    LedgerEntry,
    Member,
    Price,
    Region,
    Repository,
    Restore,
    Schedule,
    Snapshot,
    Source,
    Token,
    User,
    Webhook,
)

RARE = "zebra"
"""In the description of three snapshots in 20,000, none of them among the newest 40,000."""

_ROWS_AT_ONCE = 10_000
_HOSTS_OF_LARGE = 100
_SOURCES_OF_HOST = 10
_SMALL_ACCOUNTS = 9
_MONTHS = timedelta(days=120)
_LEDGER = timedelta(days=7)
_STATUSES = {
    "COMPLETED": 60,
    "EXPIRED": 28,
    "SKIPPED": 5,
    "FAILED": 3,
    "DELETED": 3,
    "CANCELLED": 1,
}
_TEAMS = ("vision", "speech", "robotics", "search", "ads", "maps", "safety")
_WORDS = ("checkpoint", "before", "update", "training", "epoch", "tokens", "sweep", "baseline")


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is in the large account, and how many agents in all."""

    snapshots: int = 100_000
    restores: int = 5_000
    events: int = 150_000
    deliveries: int = 50_000
    audit: int = 200_000
    agents: int = 1_000


@dataclass
class Filled:
    """What a measurement has to know of the rows: ids, and secrets of credentials."""

    host: str = ""
    source: str = ""
    schedule: str = ""
    snapshot: str = ""
    job_with_log: str = ""
    webhook: str = ""
    secrets: dict[str, str] = field(default_factory=dict)
    agents: list[dict[str, str]] = field(default_factory=list)
    """Of each host: its agent's credential, a schedule on it, and its account's token."""

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Filled:
        return cls(**json.loads(text))


def fill(database: Database, keys: MasterKeys, sizes: Sizes) -> Filled:
    """Make all tables in an empty database and fill them."""
    with database.engine.begin() as connection:
        Base.metadata.create_all(connection)
        append_only.protect(connection, *append_only.TABLES)
    return _Filling(database, keys, sizes).everything()


class _Filling:
    def __init__(self, database: Database, keys: MasterKeys, sizes: Sizes) -> None:
        self._database = database
        self._keys = keys
        self._sizes = sizes
        self._now = datetime.now(UTC).replace(microsecond=0)
        self._began = self._now - _MONTHS
        self._chance = random.Random(2026)
        self._filled = Filled()
        self._region, self._operator, self._large = self._id(), self._id(), self._id()
        self._small = [self._id() for _ in range(_SMALL_ACCOUNTS)]
        self._repositories: dict[str, Row] = {}
        self._sources: list[Row] = []
        self._schedules: list[Row] = []
        self._snapshots: list[Row] = []

    def everything(self) -> Filled:
        self._accounts()
        self._fleet()
        self._catalog()
        self._records()
        return self._filled

    def _id(self) -> str:
        return str(uuid.UUID(int=self._chance.getrandbits(128), version=4))

    def _insert(self, table: type[Base], rows: Iterable[Row]) -> None:
        waiting = iter(rows)
        while batch := list(islice(waiting, _ROWS_AT_ONCE)):
            with self._database.engine.begin() as connection:
                connection.execute(insert(table), batch)

    def _accounts(self) -> None:
        """Accounts with what is there only a few times."""
        made = {"created_at": self._began}
        regions = [self._region, *(self._id() for _ in range(4))]
        self._insert(
            Region,
            [
                {"id": each, "name": f"region-{n}", "location": "/srv", **made}
                for n, each in enumerate(regions)
            ],
        )
        idle = [self._id() for _ in range(200)]
        self._insert(
            Account,
            [
                {
                    "id": each,
                    "name": f"account {n}",
                    "created_at": self._began + timedelta(minutes=n),
                    "is_operator": each == self._operator,
                    "region_id": self._region,
                    "profile": {"currency": "EUR", "legal_name": f"account {n}"},
                }
                for n, each in enumerate([self._operator, self._large, *self._small, *idle])
            ],
        )
        users = [self._id() for _ in range(100)]
        self._insert(
            User,
            [
                {"id": each, "email": f"u{n}@example.org", "password_hash": "!", **made}
                for n, each in enumerate(users)
            ],
        )
        self._insert(
            Member,
            [
                {"account_id": self._large, "user_id": each, "role": "member", **made}
                for each in users
            ],
        )
        for account in (self._large, *self._small):
            repository_id = self._id()
            self._repositories[account] = {
                "id": repository_id,
                "account_id": account,
                "region_id": self._region,
                "sealed_password": self._keys.seal(
                    b"password", context_of(Repository, repository_id)
                ),
                "stored_bytes": 10**12,
                **made,
            }
        self._insert(Repository, self._repositories.values())
        self._insert(
            Price,
            [
                {
                    "what": what,
                    "region_id": self._region,
                    "currency": "EUR",
                    "rate": "0.021",
                    "unit": "GB-month",
                    "rate_femto": 31_506,
                    "valid_from": self._began,
                    **made,
                }
                for what in ("stored", "uploaded", "downloaded")
            ],
        )
        owners = {"operator": self._operator, "large": self._large}
        owners |= {f"small-{n}": each for n, each in enumerate(self._small)}
        self._insert(Token, [self._token(name, each) for name, each in owners.items()])
        self._insert(Token, [self._token(f"spare-{n}", self._large) for n in range(500)])

    def _token(self, name: str, account: str, **columns: Any) -> Row:
        digest = hashlib.sha256(f"{self._large} {name}".encode()).digest()
        secret = f"hf_{base64.urlsafe_b64encode(digest).decode()[:43]}"
        self._filled.secrets[name] = secret
        return {
            "account_id": account,
            "name": name,
            "secret_sha256": tokens.sha256_of(secret),
            "rights": sorted(ALL_RIGHTS),
            "purpose": "access",
            "host_id": None,
            "resources": [],
            "created_at": self._began + timedelta(seconds=self._chance.randrange(10**6)),
            **columns,
        }

    def _fleet(self) -> None:
        """Hosts with agents, and their sources, each of which has a schedule."""
        hosts, agents = [], []
        owners = {self._large: "large"} | {each: f"small-{n}" for n, each in enumerate(self._small)}
        for number in range(max(self._sizes.agents, _HOSTS_OF_LARGE)):
            is_large = number < _HOSTS_OF_LARGE
            account = self._large if is_large else self._small[number % _SMALL_ACCOUNTS]
            host = {
                "id": self._id(),
                "account_id": account,
                "region_id": self._region,
                "name": f"gpu-{number:04d}",
                "labels": {"rack": f"r{number % 20}"},
                "created_at": self._began + timedelta(minutes=number),
                "enrolled_at": self._began + timedelta(minutes=number),
                "seen_at": self._now,
                "roots": [{"path": "/root", "directory": "/root"}],
                "inventory": {"gpus": [{"name": "H100", "memory_bytes": 85 << 30}] * 8},
                "max_jobs": 8,
            }
            name = f"agent {number}"
            agents.append(self._token(name, account, purpose="agent", host_id=host["id"]))
            hosts.append(host)
            for nth in range(_SOURCES_OF_HOST if is_large else 1):
                self._add_source(host, f"run-{number:04d}-{nth}")
            self._filled.agents.append(
                {
                    "credential": self._filled.secrets.pop(name),
                    "schedule": self._schedules[-1]["id"],
                    "token": self._filled.secrets[owners[account]],
                }
            )
        self._insert(Host, hosts)
        self._insert(Token, agents)
        self._insert(Source, self._sources)
        self._insert(Schedule, self._schedules)
        filled = self._filled
        filled.source, filled.schedule = self._sources[500]["id"], self._schedules[500]["id"]
        filled.host = self._sources[500]["host_id"]
        narrow = {"host": filled.host, "source": filled.source}
        self._insert(
            Token,
            [
                self._token(f"only {name}", self._large, resources=[each])
                for name, each in narrow.items()
            ],
        )

    def _add_source(self, host: Row, name: str) -> None:
        team = self._chance.choice(_TEAMS)
        source = {
            "id": self._id(),
            "account_id": host["account_id"],
            "host_id": host["id"],
            "path": f"/root/{team}/{name}",
            "labels": {"team": team},
            "created_at": host["created_at"],
        }
        self._sources.append(source)
        self._schedules.append(
            {
                "id": self._id(),
                "account_id": host["account_id"],
                "source_id": source["id"],
                "cron": "0 3 * * *",
                "retention": {"keep_daily": 30, "keep_weekly": 8, "keep_monthly": 12},
                "created_at": host["created_at"],
                "updated_at": host["created_at"],
                "settled_until": self._now,
                "due_at": self._now + timedelta(days=1),
            }
        )

    def _catalog(self) -> None:
        """Snapshots from three months ago until now; the small accounts have a few of today."""
        large, total = _HOSTS_OF_LARGE * _SOURCES_OF_HOST, self._sizes.snapshots
        statuses, weights = zip(*_STATUSES.items(), strict=True)
        for number in range(total):
            at = self._now - timedelta(minutes=130_000 * (1 - number / total) + 10)
            status = self._chance.choices(statuses, weights)[0]
            self._snapshots.append(self._snapshot(number % large, at, status))
        latest = next(each for each in reversed(self._snapshots) if each["status"] == "COMPLETED")
        self._filled.snapshot, self._filled.job_with_log = latest["id"], latest["job_id"]
        for nth in range(large, len(self._sources)):
            for day in range(5):
                at = self._now - timedelta(days=day, minutes=nth)
                self._snapshots.append(self._snapshot(nth, at, "COMPLETED"))
        self._insert(Snapshot, self._snapshots)
        self._insert(
            Hold,
            [
                {
                    "account_id": self._large,
                    "snapshot_id": self._filled.snapshot,
                    "reason": f"{n}",
                    "created_at": self._now,
                    "created_by": "user:x",
                }
                for n in range(100)
            ],
        )

    def _snapshot(self, nth: int, at: datetime, status: str) -> Row:
        """One run. A third was asked for by people, who give names, words and labels."""
        chance = self._chance
        source, schedule = self._sources[nth], self._schedules[nth]
        number = len(self._snapshots)
        manual = number % 3 == 0
        done = status in ("COMPLETED", "EXPIRED", "DELETED")
        gone = status in ("EXPIRED", "DELETED")
        stored = chance.randrange(1, 400_000_000)
        words = " ".join(chance.choices(_WORDS, k=8)) if manual else ""
        if manual and number % 20_000 < 9 and number < 60_000:
            words += f" {RARE}"
        at += timedelta(microseconds=number)
        return {
            "id": self._id(),
            "account_id": source["account_id"],
            "source_id": source["id"],
            "schedule_id": None if manual else schedule["id"],
            "host_id": source["host_id"],
            "repository_id": self._repositories[source["account_id"]]["id"],
            "job_id": self._id() if status != "SKIPPED" else None,
            "name": f"{chance.choice(_WORDS)}-{number}" if manual and number % 2 else "",
            "description": words,
            "labels": {"team": chance.choice(_TEAMS), "run": f"{number}"} if manual else {},
            "status": status,
            "trigger": "manual" if manual else "schedule",
            "slot_at": None if manual else at,
            "created_at": at,
            "started_at": at + timedelta(seconds=2),
            "finished_at": at + timedelta(seconds=90),
            "captured_at": at + timedelta(seconds=3) if done else None,
            "manifest_id": hashlib.sha256(f"{number}".encode()).hexdigest() if done else None,
            "consistency": "per-file" if done else None,
            "files": chance.randrange(1000) if done else None,
            "logical_bytes": 10 * stored if done else None,
            "read_bytes": 2 * stored if done else None,
            "stored_bytes": stored if done else None,
            "share_bytes": stored if done else None,
            "error_code": "source_unreadable" if status == "FAILED" else None,
            "kept_because": ["daily 12"] if status == "COMPLETED" and not manual else [],
            "removed_at": at + timedelta(days=30) if gone else None,
            "purge_at": at + timedelta(days=37) if gone else None,
            "purged_at": at + timedelta(days=38) if gone else None,
        }

    def _records(self) -> None:
        """What the snapshots left behind in every other table."""
        now, sizes, snapshots = self._now, self._sizes, self._snapshots
        done = [each for each in snapshots if each["status"] == "COMPLETED"]
        step = max(1, len(done) // sizes.restores)
        restores = [self._restore(n, each) for n, each in enumerate(done[::step])]
        self._insert(Restore, restores)
        self._insert(Job, control_records.jobs("backup", snapshots, self._repositories))
        self._insert(Job, control_records.jobs("restore", restores, self._repositories))
        self._insert(Job, control_records.upkeep(self._repositories.values(), now))
        ran = [each["job_id"] for each in snapshots if each["job_id"]][-20_000:]
        self._insert(JobLine, control_records.logs(ran, self._filled.job_with_log, now))
        webhooks: list[Row] = [
            {
                "id": self._id(),
                "account_id": self._large,
                "url": f"https://example.org/{n}",
                "kinds": [RARE_KIND],
                "sealed_secret": "",
                "active": False,
                "created_at": self._began,
            }
            for n in range(5)
        ]
        self._filled.webhook = webhooks[0]["id"]
        self._insert(Webhook, webhooks)
        self._insert(Event, control_records.events(snapshots, self._small[0], now, sizes.events))
        self._insert(Delivery, control_records.deliveries(webhooks, now, sizes.deliveries))
        self._insert(AuditEntry, control_records.audit(snapshots, now, sizes.audit))
        sources = self._sources[: _HOSTS_OF_LARGE * _SOURCES_OF_HOST]
        hour = now.replace(minute=0, second=0)
        self._insert(LedgerEntry, control_records.stored_lines(sources, hour - _LEDGER, hour))
        self._insert(LedgerEntry, control_records.transfer_lines(snapshots))

    def _restore(self, number: int, snapshot: Row) -> Row:
        at = snapshot["created_at"] + timedelta(hours=1)
        return {
            "id": self._id(),
            "account_id": snapshot["account_id"],
            "snapshot_id": snapshot["id"],
            "host_id": snapshot["host_id"],
            "job_id": self._id(),
            "target": f"/root/restored/{number}",
            "status": "COMPLETED" if number % 20 else "FAILED",
            "created_at": at,
            "finished_at": at + timedelta(minutes=1),
            "restored_bytes": 10**9,
        }
