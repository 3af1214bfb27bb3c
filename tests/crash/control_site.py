"""Everything under one roof: servers, machines with agents, people, a store, and one clock.

All are real processes; only the control plane's clock is one that a test can move, so that
leases, pauses and slots pass in a moment. People repeat a request under one key until it is
acknowledged. Nothing outlives the test's process.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from control_launch import MovableClock
from control_processes import Machine, Server, eventually, kill
from control_relay import Acknowledged
from control_tree import Tree
from sample_repository import CHEAP
from sqlalchemy import select

from holdfast.control import accounts, prices, regions, tokens, users
from holdfast.control.database import Database
from holdfast.control.principal import ALL_RIGHTS, Principal
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Account, Job, Member, Region, Schedule
from holdfast.control.tables import Repository as RepositoryRow
from holdfast.repo.repository import Repository
from holdfast.store.local import LocalStore

SETTLE_SECONDS = 150.0
STEP_SECONDS = 20.0
"""The clock goes on in such steps, so that whoever is alive can renew its lease in between."""
_KEPT = ("PATH", "LANG", "TMPDIR", "VIRTUAL_ENV")


class Refused(Exception):
    """A request was answered, and asking again would not help."""


class NotHeard(Exception):
    """A request was not acknowledged, however often it was asked."""


@dataclass
class Site:
    """See the module. `acknowledged` is what people and agents were told to be done."""

    base: Path
    database_url: str = ""
    seed: str = "0"
    objects: Path = field(init=False)
    clock_file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.objects = self.base / "objects"
        self.clock_file = self.base / "clock"
        self.clock = MovableClock(self.clock_file)
        self.database_url = self.database_url or f"sqlite:///{self.base / 'control.db'}"
        self.chance = random.Random(self.seed)
        self.environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        self.environment |= {"HOME": str(self.base), "PYTHONPATH": str(Path(__file__).parent)}
        self.servers: list[Server] = []
        self.machines: list[Machine] = []
        self.stores: dict[str, Path] = {}
        self.sources: dict[str, Tree] = {}
        self.acts: list[str] = []
        self._closing = threading.Event()
        self._supervisor: threading.Thread | None = None

    def supervise(self) -> None:
        """From now on start again whatever ended and was not stopped, as an init does."""
        self._supervisor = threading.Thread(target=self._watch, name="supervisor")
        self._supervisor.start()

    def _watch(self) -> None:
        while not self._closing.wait(0.02):
            for each in self._all():
                each.revive()

    def _all(self) -> list[Server | Machine]:
        return [*self.servers, *self.machines]

    # What is there

    def add_server(self, **settings: Any) -> Server:
        server = Server(self, len(self.servers), **settings)
        self.servers.append(server)
        return server

    def settle_in(self) -> None:
        """After the first start: an account with a person in it, prices, and a repository."""
        self.database = Database(self.database_url)
        self.keys = MasterKeys.load(str(self.base / "master.key"))
        self._person = httpx.Client(timeout=httpx.Timeout(60.0))
        now = self.clock()
        with self.database.write() as tx:
            operator = tx.scalars(select(Account).where(Account.is_operator)).one()
            region = tx.scalars(select(Region)).one()
            account = accounts.create(tx, name="Customer", region_id=region.id, now=now)
            user = users.create_user(tx, "a@example.org", "correct horse battery", now=now)
            tx.flush()
            for each in (operator, account):
                tx.add(Member(account_id=each.id, user_id=user.id, role="owner", created_at=now))
            self.account_id, self.region_id = account.id, region.id
            self._operator_secret = self._token(tx, operator, user.id)
            self._secret = self._token(tx, account, user.id)
            self._set_prices(tx, region.id, "7.31")
        self.stores[region.id] = self.objects

    def _set_prices(self, tx: Any, region_id: str, rate: str) -> None:
        """So dear that an hour of a few megabytes is not nothing; after the defaults."""
        now = self.clock()
        for what, unit in (("stored", "GB-month"), ("uploaded", "GB"), ("downloaded", "GB")):
            prices.set_price(
                tx, what=what, region_id=region_id, currency="USD", rate=Decimal(rate),
                unit=unit, valid_from=now + timedelta(seconds=1), origin="test", now=now,
            )  # fmt: skip

    def add_region(self, name: str) -> str:
        """Another region with a store and prices of its own; its id."""
        store = self.base / f"objects-{name}"
        body = {"name": name, "location": str(store)}
        region_id: str = self.ask("POST", "/regions", body, secret=self._operator_secret)["id"]
        self.stores[region_id] = store
        with self.database.write() as tx:
            self._set_prices(tx, region_id, "11.9")
        return region_id

    def _token(self, tx: Any, account: Account, user_id: str) -> str:
        who = Principal(
            "user", user_id, account.id, ALL_RIGHTS, operator=account.is_operator, user_id=user_id
        )
        rights = [right.value for right in ALL_RIGHTS]
        return tokens.issue(tx, who, name="test", rights=rights, now=self.clock())[1]

    def make_repository(self, region_id: str = "") -> None:
        """Made here with a cheap key, so that opening it takes no time."""
        with self.database.write() as tx:
            row = regions.repository_for(
                tx, self.account_id, region_id or self.region_id, keys=self.keys, now=self.clock()
            )
        Repository.create(LocalStore(str(self._place(row))), self._password(row), scrypt=CHEAP)

    def _place(self, row: RepositoryRow) -> Path:
        return self.stores[row.region_id] / "repositories" / row.id

    def _password(self, row: RepositoryRow) -> str:
        with self.database.read() as tx:
            return regions.password_of(tx, row, self.keys)

    def repository(self, region_id: str = "") -> Repository:
        """The account's repository, opened beside the gateway; to be read only."""
        row = self.repository_row(region_id)
        return Repository.open(LocalStore(str(self._place(row))), self._password(row))

    def password(self, region_id: str = "") -> str:
        return self._password(self.repository_row(region_id))

    @contextmanager
    def copy_of_repository(self, region_id: str = "") -> Iterator[Path]:
        """Where it is a second time: looking there changes nothing, not even a lock."""
        row = self.repository_row(region_id)
        copy = self.stores[row.region_id] / "copy"
        shutil.copytree(self._place(row), copy, copy_function=os.link)
        try:
            yield copy
        finally:
            shutil.rmtree(copy)

    def repository_row(self, region_id: str = "") -> RepositoryRow:
        """The account's in that region, or in the first one."""
        with self.database.read() as tx:
            return tx.scalars(
                select(RepositoryRow).where(
                    RepositoryRow.account_id == self.account_id,
                    RepositoryRow.region_id == (region_id or self.region_id),
                )
            ).one()

    def add_machine(
        self,
        name: str,
        *,
        keeper: bool = False,
        put_only: bool = False,
        region_id: str = "",
        server: Server | None = None,
        **settings: Any,
    ) -> Machine:
        """A machine that was enrolled; its agent does not run yet."""
        machine = Machine(self, name, server or self.servers[0], **settings)
        secret = self._operator_secret if keeper else self._secret
        body = {"name": name, "keeper": keeper, "put_only": put_only}
        if region_id:
            body["region_id"] = region_id
        invitation = self.ask("POST", "/hosts/invitations", body, secret=secret)
        machine.enrol(invitation["secret"])
        self.machines.append(machine)
        return machine

    def add_source(self, machine: Machine, name: str) -> str:
        """A tree on a machine that is protected from now on; the source's id."""
        tree = Tree(machine.root / name, random.Random(f"{self.seed} {machine.name} {name}"))
        body = {"host_id": machine.host_id, "path": f"/root/{name}"}
        source_id: str = self.ask("POST", "/sources", body)["id"]
        self.sources[source_id] = tree
        return source_id

    # What people do

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        secret: str = "",
        seconds: float = 60.0,
        server: Server | None = None,
    ) -> Any:
        """Ask until it is acknowledged, always under the same key; the answer."""
        headers = {
            "Authorization": f"Bearer {secret or self._secret}",
            "Idempotency-Key": str(uuid4()),
        }
        deadline = time.monotonic() + seconds
        while True:
            relay = (server or self.servers[0]).relay
            try:
                response = self._person.request(
                    method, f"{relay.url}/api/v1{path}", json=body, headers=headers
                )
            except httpx.HTTPError as error:
                reason = repr(error)
            else:
                if response.is_success:
                    return response.json() if response.content else None
                reason = f"{response.status_code} {response.text}"
                if response.status_code not in (429, 503, 507):
                    raise Refused(f"{method} {path}: {reason}")
            if time.monotonic() > deadline:
                raise NotHeard(f"{method} {path}: {reason}")
            time.sleep(0.1)

    def back_up(self, source_id: str) -> str:
        """Ask for a backup now; the snapshot's id."""
        snapshot_id: str = self.ask("POST", "/snapshots", {"source_id": source_id})["id"]
        return snapshot_id

    def restore(self, snapshot_id: str, machine: Machine, target: str) -> str:
        body = {"snapshot_id": snapshot_id, "host_id": machine.host_id, "target": target}
        restore_id: str = self.ask("POST", "/restores", body)["id"]
        return restore_id

    @property
    def acknowledged(self) -> list[Acknowledged]:
        return [each for server in self.servers for each in server.relay.acknowledged]

    # How time passes

    def open_jobs(self) -> list[Job]:
        with self.database.read() as tx:
            return list(tx.scalars(select(Job).where(Job.state.in_(("queued", "leased")))))

    def job_of(self, subject_id: str) -> Job:
        with self.database.read() as tx:
            return tx.scalars(select(Job).where(Job.subject_id == subject_id)).one()

    def settle(self, seconds: float = SETTLE_SECONDS) -> None:
        """Let time pass until nothing is left to be done; all have to be up.

        The clock moves on only while nothing happens, and never so far that somebody who
        is at work could lose its lease.
        """
        deadline = time.monotonic() + seconds
        changed_at, last = time.monotonic(), None
        while found := self.open_jobs():
            seen = sorted((j.id, j.state, j.attempt, j.lease_until or j.not_before) for j in found)
            if seen != last:
                changed_at, last = time.monotonic(), seen
            assert time.monotonic() < deadline, self.describe("it does not settle")
            now = self.clock()
            waiting = [job.not_before for job in found if job.state == "queued"]
            if len(waiting) == len(found) and min(waiting) > now:
                self.clock.step((min(waiting) - now).total_seconds() + 0.001)
            elif time.monotonic() - changed_at > (patience := self._patience()):
                self.clock.step(STEP_SECONDS)
                changed_at = time.monotonic() - patience + 0.5
            time.sleep(0.03)

    def _patience(self) -> float:
        """For how long nobody may be heard until whoever holds a lease has to be dead."""
        at_work = any(machine.children for machine in self.machines if machine.is_up)
        # An agent beside a server is one process without its jobs.
        beside = any(len(server.children) > 1 for server in self.servers if server.is_up)
        return 10.0 if at_work or beside else 2.5

    def run_dry(self) -> None:
        """Wait until all are up and nothing is left to be done."""
        eventually(
            lambda: all(each.is_up for each in self._all() if each.wanted),
            "somebody does not come up",
        )
        self.settle()

    def settle_slots(self, seconds: float = SETTLE_SECONDS) -> None:
        """Wait until somebody leads and has looked at every slot that is due by now."""
        deadline, changed_at = time.monotonic() + seconds, time.monotonic()
        until = self.clock()
        due = select(Schedule.id).where(Schedule.due_at <= until)
        while True:
            with self.database.read() as tx:
                if tx.scalars(due).first() is None:
                    return
            assert time.monotonic() < deadline, self.describe("slots are not looked at")
            if time.monotonic() - changed_at > 3.0:
                self.clock.step(STEP_SECONDS)  # the leader may have died
                changed_at = time.monotonic() - 2.5
            time.sleep(0.03)

    def pass_time(self, **span: float) -> None:
        """Move the clock forward while nobody is at work."""
        assert not self.open_jobs()
        self.clock.step(timedelta(**span).total_seconds())

    def describe(self, what: str) -> str:
        """What is there, for whoever has to find out why a test failed."""
        jobs = [
            f"{j.kind} {j.id[:8]} {j.state} attempt {j.attempt} of {j.max_attempts} to "
            f"{(j.leased_to or '-')[:8]} lease {j.lease_until} not before {j.not_before} "
            f"stage {j.stage!r} error {j.error_code} {j.error_message}"
            for j in self.open_jobs()
        ]
        logs = []
        for each in self._all():
            lines = each.log.read_text(errors="replace").splitlines() if each.log.exists() else []
            told = [line for line in lines if '"event": "request"' not in line]
            logs += [f"== {each.log}", *(line[:400] for line in told[-15:])]
        locks = [
            str(each)
            for region_id in self.stores
            for each in self.repository(region_id).lock_files().records()
        ]
        return "\n".join([what, *locks, f"now {self.clock()}", *self.acts[-20:], *jobs, *logs])

    def note(self, what: str) -> None:
        """Remember what was done to whom, for `describe`."""
        self.acts.append(f"{self.clock():%H:%M:%S.%f} {what}")

    def close(self) -> None:
        self._closing.set()
        if self._supervisor is not None:
            self._supervisor.join()
        for machine in self.machines:
            machine.stop()
        for server in self.servers:
            children = server.children
            server.stop()
            kill(children)
            server.relay.close()
        if hasattr(self, "database"):
            self.database.close()
            self._person.close()
