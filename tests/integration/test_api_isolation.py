"""Who may do what: every operation of the API, asked for by everybody.

The operations come from the OpenAPI document. What each of them needs is written down
here, so an operation that nobody has thought about fails the first test. Refusals leave the
database as it was.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_world import Api, caught_log
from control_shelf import Shelf
from control_tasks import Tasks
from control_world import REPOSITORY_PASSWORD, World
from sqlalchemy import select, text, update

from holdfast.control import (
    drills,
    events,
    holds,
    jobs,
    prices,
    restores,
    schedules,
    tokens,
    webhooks,
)
from holdfast.control.database import Database
from holdfast.control.principal import ALL_RIGHTS, Right
from holdfast.control.tables import Base, Job, Snapshot, Token

ADMINISTER, CREATE, DELETE = {Right.ADMINISTER}, {Right.CREATE}, {Right.DELETE}
READ, RESTORE = {Right.READ}, {Right.RESTORE}
REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"
INSTANCE = "8c5ff5bf-0f6c-4bd0-8c5b-0f5f4d1d1c11"


@dataclass(frozen=True)
class Case:
    """What an operation needs, and a request for it that is valid for the account's owner.

    `names`: it names something of the account, so that others do not find it. `narrowed`:
    what a token gets that has every right but is limited to another source of the account.
    Words in braces stand for ids.
    """

    needs: set[Right] = field(default_factory=set)
    body: Any = None
    query: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    names: bool = True
    narrowed: int | None = None
    for_whom: str = "people"
    operator: bool = False


def listed(needs: set[Right], **fields: Any) -> Case:
    return Case(needs, names=False, **fields)


_MD5 = "d41d8cd98f00b204e9800998ecf8427e"
_OWNER = {"credential": "{secret}"}
_OF_BUCKET = {"caller": _OWNER, "bucket": "{bucket}"}
_OF_OBJECT = {**_OF_BUCKET, "key": "a/b"}
_OF_UPLOAD = {**_OF_OBJECT, "upload_id": "{upload}"}

OPERATIONS: dict[str, Case] = {
    # Sessions
    "sign_in_session": Case(
        body={"email": "owner@example.org", "password": "correct horse"},
        status=201,
        for_whom="anybody",
    ),
    "sign_out_session": listed(set(), status=409),
    "get_me": listed(set()),
    "change_password": listed(
        set(),
        body={"old_password": "correct horse", "new_password": "battery staple"},
        status=403,
    ),
    # Accounts
    "get_account": listed(READ),
    "get_usage": listed(READ),
    "edit_account": listed(ADMINISTER, body={"name": "New name"}, narrowed=403),
    "edit_profile": listed(ADMINISTER, body={"contact": "Somebody"}, narrowed=403),
    "list_accounts": listed(ADMINISTER, operator=True),
    "create_account": listed(
        ADMINISTER, body={"name": "Third", "region_id": "{region}"}, status=201, operator=True
    ),
    "set_quotas": Case(ADMINISTER, body={"snapshots": 7}, operator=True),
    "add_credit": Case(
        ADMINISTER, body={"amount": "10.50", "note": "welcome"}, status=201, operator=True
    ),
    "list_members": listed(READ, narrowed=403),
    "add_member": listed(
        ADMINISTER, body={"email": "new@example.org", "role": "viewer"}, status=201, narrowed=403
    ),
    "set_member_role": Case(ADMINISTER, body={"role": "member"}, narrowed=403),
    "remove_member": Case(ADMINISTER, status=204, narrowed=403),
    "list_tokens": listed(ADMINISTER, narrowed=403),
    "issue_token": listed(
        ADMINISTER, body={"name": "ci", "rights": ["administer"]}, status=201, narrowed=403
    ),
    "revoke_token": Case(ADMINISTER, status=204, narrowed=403),
    # Places
    "list_regions": listed(READ),
    "create_region": listed(
        ADMINISTER, body={"name": "there", "location": "/srv/there"}, status=201, operator=True
    ),
    "list_repositories": listed(READ),
    "reveal_repository_password": Case(RESTORE | ADMINISTER, narrowed=403),
    "declare_repository_lost": Case(DELETE | ADMINISTER, narrowed=403),
    "list_hosts": listed(READ),
    "get_host": Case(READ),
    "edit_host": Case(ADMINISTER, body={"name": "Renamed"}),
    "revoke_host": Case(ADMINISTER),
    "invite_host": listed(ADMINISTER, body={"put_only": True}, status=201, narrowed=403),
    # What is protected
    "list_sources": listed(READ),
    "create_source": Case(CREATE, body={"host_id": "{host}", "path": "/root/new"}, status=201),
    "get_source": Case(READ),
    "edit_source": Case(CREATE, body={"labels": {"team": "a"}}),
    "remove_source": Case(CREATE, status=204),
    "list_schedules": listed(READ),
    "create_schedule": Case(
        CREATE,
        body={"source_id": "{source}", "preset": "daily", "retention": {"keep_last": 3}},
        status=201,
    ),
    "get_schedule": Case(READ),
    "edit_schedule": Case(CREATE, body={"name": "nightly"}),
    "remove_schedule": Case(CREATE, status=204),
    "pause_schedule": Case(CREATE),
    "resume_schedule": Case(CREATE),
    "preview_retention": Case(READ, body={"keep_last": 1}),
    "list_next_runs": Case(READ),
    "run_schedule": Case(CREATE, status=202),
    "list_snapshots": listed(READ),
    "create_snapshot": Case(CREATE, body={"source_id": "{source}"}, status=202),
    "get_snapshot": Case(READ),
    "edit_snapshot": Case(CREATE, body={"name": "renamed"}),
    "delete_snapshot": Case(DELETE),
    "cancel_snapshot": Case(CREATE),
    "recover_snapshot": Case(CREATE),
    "copy_snapshot": Case(CREATE, body={"region_id": "{other_region}"}, status=202),
    "get_snapshot_log": Case(READ),
    "get_snapshot_cost": Case(READ),
    "list_holds": Case(READ),
    "place_hold": Case(CREATE, body={"reason": "audit"}, status=201),
    "release_hold": Case(DELETE, status=204),
    "list_restores": listed(READ),
    "create_restore": Case(
        RESTORE,
        body={"snapshot_id": "{snapshot}", "host_id": "{host}", "target": "/root/t"},
        status=202,
    ),
    "get_restore": Case(READ),
    "cancel_restore": Case(RESTORE),
    "get_restore_log": Case(READ),
    "list_drills": listed(READ),
    "create_drill": Case(
        RESTORE, body={"snapshot_id": "{held_snapshot}", "host_id": "{host}"}, status=202
    ),
    "get_drill": Case(READ),
    "cancel_drill": Case(RESTORE),
    "get_drill_log": Case(READ),
    # Tasks
    "list_task_profiles": listed(READ),
    "list_tasks": listed(READ),
    "submit_task": listed(
        CREATE,
        body={
            "name": "train",
            "profile": "batch",
            "constants": [{"key": "COMMAND", "value": "true"}],
        },
        status=201,
        narrowed=403,
    ),
    "get_task": Case(READ),
    "edit_task": Case(CREATE, body={"tags": ["a"]}),
    "delete_task": Case(DELETE),
    "abort_task": Case(CREATE),
    "renew_task_inputs": Case(CREATE),
    "list_task_instances": Case(READ),
    "get_task_output": Case(RESTORE),
    "get_whole_task_output": Case(RESTORE),
    "create_task_snapshot": Case(CREATE, body={}, status=202),
    "list_task_snapshots": Case(READ),
    "set_periodic_snapshots": Case(CREATE, body={"seconds": 60}),
    "end_periodic_snapshots": Case(CREATE),
    "get_task_snapshot": Case(READ),
    "edit_task_snapshot": Case(CREATE, body={"label": "best"}),
    "delete_task_snapshot": Case(DELETE),
    "create_task_preview": Case(RESTORE, body={}, status=202),
    "get_task_preview": Case(RESTORE),
    # Buckets
    "list_buckets": listed(READ),
    "create_bucket": listed(CREATE, body={"name": "fresh"}, status=201, narrowed=403),
    "get_bucket": Case(READ),
    "remove_bucket": Case(DELETE, query={"contents": "true"}, status=204),
    "list_jobs": listed(READ),
    "get_job": Case(READ),
    "cancel_job": Case(RESTORE),
    "get_job_log": Case(READ),
    # What happened
    "list_events": listed(READ, narrowed=403),
    "stream_events": listed(READ, narrowed=403),
    "list_webhooks": listed(ADMINISTER, narrowed=403),
    "create_webhook": listed(
        ADMINISTER, body={"url": "https://hooks.example.org/"}, status=201, narrowed=403
    ),
    "get_webhook": Case(ADMINISTER, narrowed=403),
    "edit_webhook": Case(ADMINISTER, body={"active": False}, narrowed=403),
    "remove_webhook": Case(ADMINISTER, status=204, narrowed=403),
    "send_test_event": Case(ADMINISTER, status=202, narrowed=403),
    "list_deliveries": Case(ADMINISTER, narrowed=403),
    "list_audit": listed(ADMINISTER, narrowed=403),
    # Money
    "list_prices": listed(READ),
    "set_price": listed(
        ADMINISTER,
        body={
            "what": "stored",
            "region_id": "{region}",
            "currency": "USD",
            "rate": "0.5",
            "unit": "GB-month",
        },
        status=201,
        operator=True,
    ),
    "get_balance": listed(READ),
    "list_ledger": listed(READ),
    "get_statement": listed(READ, query={"year": 2026, "month": 11}, narrowed=403),
    "get_statement_csv": listed(READ, query={"year": 2026, "month": 11}, narrowed=403),
    "estimate_snapshot": Case(READ, body={"source_id": "{source}"}),
    "estimate_schedule": Case(
        READ,
        body={"source_id": "{source}", "preset": "daily", "retention": {"keep_last": 3}},
    ),
    "estimate_copy": Case(READ, body={"snapshot_id": "{snapshot}", "region_id": "{other_region}"}),
    "estimate_restore": Case(READ, body={"snapshot_id": "{snapshot}"}),
    # Agents and gateways
    "enrol_agent": Case(
        body={
            "token": "{invitation}",
            "name": "machine",
            "roots": [{"path": "/root"}],
        },
        status=201,
        for_whom="anybody",
    ),
    "beat": listed(set(), body={"instance": INSTANCE}, for_whom="agent"),
    "claim_job": listed(set(), body={"instance": INSTANCE}, status=204, for_whom="agent"),
    "report_progress": Case(body={"attempt": 1}, for_whom="agent"),
    "finish_job": Case(
        body={"attempt": 1, "outcome": "failed", "error": {"code": "error", "message": "no"}},
        for_whom="agent",
    ),
    "resolve_credential": Case(
        body={"credential": "{secret}", "repository_id": "{repository}"}, for_whom="gateway"
    ),
    "derive_signing_keys": Case(
        body={"access_key": "{token}", "date": "20261102", "region": "us-east-1"},
        for_whom="gateway",
    ),
    "gateway_list_buckets": Case(body={"caller": _OWNER}, for_whom="gateway"),
    "gateway_create_bucket": Case(body=_OF_BUCKET, for_whom="gateway"),
    "gateway_open_bucket": Case(body=_OF_BUCKET, for_whom="gateway"),
    "gateway_remove_bucket": Case(
        body={"caller": _OWNER, "bucket": "{empty_bucket}"}, status=204, for_whom="gateway"
    ),
    "gateway_list_objects": Case(body=_OF_BUCKET, for_whom="gateway"),
    "gateway_get_object": Case(body=_OF_OBJECT, for_whom="gateway"),
    "gateway_put_object": Case(
        body={**_OF_OBJECT, "bodies": [], "size_bytes": 0, "etag": "e"}, for_whom="gateway"
    ),
    "gateway_copy_object": Case(
        body={**_OF_OBJECT, "key": "copy", "source_bucket": "{bucket}", "source_key": "a/b"},
        for_whom="gateway",
    ),
    "gateway_delete_objects": Case(body={**_OF_BUCKET, "keys": ["a/b"]}, for_whom="gateway"),
    "gateway_hide_objects": Case(body={**_OF_BUCKET, "keys": ["a/b"]}, for_whom="gateway"),
    "gateway_begin_upload": Case(body=_OF_OBJECT, for_whom="gateway"),
    "gateway_store_part": Case(
        body={**_OF_UPLOAD, "number": 2, "bodies": [], "size_bytes": 0, "etag": _MD5},
        for_whom="gateway",
    ),
    "gateway_list_parts": Case(body=_OF_UPLOAD, for_whom="gateway"),
    "gateway_complete_upload": Case(
        body={**_OF_UPLOAD, "parts": [{"number": 1, "etag": _MD5}]}, for_whom="gateway"
    ),
    "gateway_abort_upload": Case(body=_OF_UPLOAD, status=204, for_whom="gateway"),
    "gateway_list_uploads": Case(body=_OF_BUCKET, for_whom="gateway"),
    "gateway_reserve_bodies": Case(
        body={"repository_id": "{repository}", "count": 2}, for_whom="gateway"
    ),
    "gateway_list_due_bodies": Case(body={"limit": 5}, for_whom="gateway"),
    "gateway_note_removed_bodies": Case(
        body={"ids": ["{repository}"]}, status=204, for_whom="gateway"
    ),
    # Operations
    "get_health": Case(for_whom="anybody"),
    "get_readiness": Case(for_whom="anybody"),
    "get_version": Case(for_whom="anybody"),
    "get_capabilities": Case(for_whom="anybody"),
    "get_metrics": listed(ADMINISTER, operator=True),
}

OTHER_IDS = {
    "cancel_job": {"job_id": "{restore_job}"},
    "cancel_snapshot": {"snapshot_id": "{pending_snapshot}"},
    "recover_snapshot": {"snapshot_id": "{deleted_snapshot}"},
    "get_bucket": {"name": "{bucket}"},
    "remove_bucket": {"name": "{bucket}"},
    "release_hold": {"snapshot_id": "{held_snapshot}"},
    "report_progress": {"job_id": "{leased_job}"},
    "finish_job": {"job_id": "{leased_job}"},
}
"""Where an operation needs another one of its kind than most do."""


class Town:
    """A world with two accounts, in which the first has one of everything."""

    def __init__(self, world: World) -> None:
        self.world, self.api = world, Api(world)
        self.ids: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        self._furnish()
        self._hand_out_credentials()

    def _furnish(self) -> None:
        world, ids = self.world, self.ids
        who = world.principal()
        self.host = world.add_host()
        self.put_only_host = world.add_host(put_only=True)
        source = world.add_source(self.host)
        other_source = world.add_source(self.host, "/root/other")
        repository = self.repository = world.add_repository()
        snapshot, held, deleted = (world.add_snapshot(source, repository) for _ in range(3))
        viewer, _ = world.add_user("viewer@example.org", role="viewer")
        with world.database.write() as tx:
            from holdfast.control import users
            from holdfast.control.tables import Member

            owner = users.create_user(tx, "owner@example.org", "correct horse", now=world.now)
            tx.add(
                Member(
                    account_id=who.account_id,
                    user_id=owner.id,
                    role="owner",
                    created_at=world.now,
                )
            )
            schedule = schedules.create(
                tx,
                who,
                source_id=source.id,
                preset="daily",
                retention={"keep_last": 3},
                now=world.now,
            )
            hold = holds.place(tx, who, held.id, reason="audit", now=world.now)
            webhook, secret = webhooks.create(
                tx, who, url="https://hooks.example.org/a", keys=world.keys, now=world.now
            )
            self.secrets["webhook"] = secret
            prices.refresh(tx, prices.DEFAULT_PRICES, origin="test", now=world.now)
            events.emit(
                tx, who.account_id, "snapshot.failed", "snapshot", snapshot.id, "no", now=world.now
            )
        with world.database.write() as tx:
            from holdfast.control import snapshots

            snapshots.delete(tx, who, deleted.id, now=world.now)
            pending = snapshots.request(
                tx, who, source_id=other_source.id, now=world.now, keys=world.keys
            )
            restore = restores.request(
                tx, who, snapshot_id=snapshot.id, host_id=self.host.id, now=world.now
            )
            drill = drills.request(tx, who, snapshot_id=snapshot.id, now=world.now)
        self._fill_a_bucket()
        self._run_a_task()
        ids.update(
            account=world.account.id,
            user=viewer.id,
            region=world.region.id,
            other_region=world.add_region("elsewhere", "/srv/elsewhere").id,
            repository=repository.id,
            host=self.host.id,
            source=source.id,
            schedule=schedule.id,
            snapshot=snapshot.id,
            held_snapshot=held.id,
            deleted_snapshot=deleted.id,
            pending_snapshot=pending.id,
            hold=hold.id,
            webhook=webhook.id,
            restore=restore.id,
            drill=drill.id,
            job=restore.job_id or "",
            restore_job=restore.job_id or "",
            leased_job=self._leased_job(source.id, repository.id),
        )

    def _run_a_task(self) -> None:
        """A task that executes, with an input, output, a snapshot of it, and a preview."""
        made = Tasks(self.world, repository=self.repository)
        host = made.host()
        task, job = made.running(host, inputs=({"bucket": "results"},))
        with self.world.database.write() as tx:
            from holdfast.control import task_snapshots

            who, now = self.world.principal(), self.world.now
            whole = task_snapshots.request(tx, who, task.id, now=now)
            preview = task_snapshots.preview_ask(tx, who, task.id, now=now)
        made.say(host, job, made.output(b"hello"), made.snapshot_said(whole, "success"))
        self.ids.update(task=task.id, task_snapshot=whole.id, preview=preview.id, stream="stdout")

    def _fill_a_bucket(self) -> None:
        shelf = Shelf(self.world)
        bucket, empty = shelf.bucket("results"), shelf.bucket("empty-one")
        shelf.put(bucket, "a/b", pieces=[])
        upload = shelf.begin(bucket, "a/b")
        shelf.part(bucket, upload, 1, pieces=[], etag=_MD5)
        self.ids.update(bucket=bucket.name, empty_bucket=empty.name, upload=upload.id)

    def _leased_job(self, source_id: str, repository_id: str) -> str:
        """The job of a run that both hosts' agents might think is theirs; it is the first's."""
        world = self.world
        who = world.principal()
        with world.database.write() as tx:
            from holdfast.control import snapshots

            run = snapshots.request(tx, who, source_id=source_id, now=world.now, keys=world.keys)
            tx.execute(update(Job).where(Job.id != run.job_id).values(state="queued", priority=-1))
            job = jobs.claim(tx, world.agent(self.host), instance=INSTANCE, now=world.now)
            assert job is not None
            assert job.id == run.job_id
            others = Job.not_before.key
            tx.execute(
                update(Job).where(Job.id != job.id).values({others: world.now + timedelta(days=1)})
            )
            return job.id

    def _hand_out_credentials(self) -> None:
        api, world, secrets = self.api, self.world, self.secrets
        self.other_account = world.add_account("Other")
        other_host = world.add_host(self.other_account)
        secrets["owner"] = api.token()
        for right in ALL_RIGHTS:
            secrets[f"only {right}"] = api.token(rights=[right])
        elsewhere = world.add_source(self.host, "/root/elsewhere")
        secrets["narrowed"] = api.token(resources=[elsewhere.id])
        secrets["other account"] = api.token(self.other_account)
        secrets["operator"] = api.token(world.operator_account)
        secrets["revoked"], secrets["expired"] = api.token(), api.token()
        secrets["agent"] = api.agent_token(self.host)
        secrets["put-only agent"] = api.agent_token(self.put_only_host)
        secrets["other agent"] = api.agent_token(other_host)
        secrets["gateway"] = api.gateway_token()
        with world.database.write() as tx:
            from holdfast.control import hosts

            self.set_token(tx, "revoked", revoked_at=world.now)
            self.set_token(tx, "expired", expires_at=world.now)
            _, secrets["invitation"] = hosts.invite(tx, world.principal(), now=world.now)
            token, _ = tokens.issue(
                tx, world.principal(), name="spare", rights=["read"], now=world.now
            )
        self.ids |= {
            "token": token.id,
            "invitation": secrets["invitation"],
            "secret": secrets["owner"],
        }

    def set_token(self, tx: Any, whose: str, **values: Any) -> None:
        digest = tokens.sha256_of(self.secrets[whose])
        tx.execute(update(Token).where(Token.secret_sha256 == digest).values(**values))

    def ask(self, whose: str, operation_id: str) -> httpx.Response:
        """Send the operation's request with somebody's credential."""
        method, path, _ = self.operation(operation_id)
        case = OPERATIONS[operation_id]
        own = OTHER_IDS.get(operation_id, {})
        for name in re.findall(r"{(\w+)}", path):
            value = own.get(name, "{" + name.removesuffix("_id") + "}")
            path = path.replace("{" + name + "}", self.filled(value))
        return self.api.client(self.secrets.get(whose)).request(
            method, path, json=self.filled(case.body), params=dict(case.query)
        )

    def operation(self, operation_id: str) -> tuple[str, str, dict[str, Any]]:
        return next(
            each for each in self.api.operations() if each[2]["operationId"] == operation_id
        )

    def filled(self, template: Any) -> Any:
        if isinstance(template, dict):
            return {name: self.filled(value) for name, value in template.items()}
        if isinstance(template, list):
            return [self.filled(value) for value in template]
        if isinstance(template, str):
            return re.sub(r"{(\w+)}", lambda found: self.ids[found[1]], template)
        return template


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Town]:
    path = tmp_path_factory.mktemp("town") / "control.db"
    shutil.copyfile(sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    made = Town(World(database))
    with caught_log(made.api.log):
        yield made
    made.api.close()
    database.close()


@pytest.fixture(scope="module")
def pristine(town: Town) -> Iterator[sqlite3.Connection]:
    """The database as it was at first."""
    kept = sqlite3.connect(":memory:", check_same_thread=False)
    with sqlite3.connect(town.world.database.engine.url.database or "") as now:
        now.backup(kept)
    now.close()
    yield kept
    kept.close()


def restore(town: Town, pristine: sqlite3.Connection) -> None:
    with sqlite3.connect(town.world.database.engine.url.database or "") as now:
        pristine.backup(now)
    now.close()


def everything(database: Database) -> dict[str, Any]:
    """All rows, but for what merely notes that somebody asked."""
    noted = {"used_at", "used_from"}
    with database.read() as tx:
        return {
            table.name: sorted(
                str({name: value for name, value in row._mapping.items() if name not in noted})
                for row in tx.execute(select(table))
            )
            for table in Base.metadata.sorted_tables
            if table.name != "sign_in_failures"
        }


def test_every_operation_is_classified(town: Town) -> None:
    """A4: an operation that nobody has thought about fails here."""
    assert {operation["operationId"] for _, _, operation in town.api.operations()} == set(
        OPERATIONS
    )


def test_the_document_says_who_may_ask(town: Town) -> None:
    kinds = {"anybody": 0, "people": 3, "agent": 2, "gateway": 2}
    for _, path, operation in town.api.operations():
        case = OPERATIONS[operation["operationId"]]
        assert len(operation["security"]) == kinds[case.for_whom], path


def test_the_reference_lists_every_operation_and_what_it_needs(town: Town) -> None:
    rows = re.findall(
        r"^\| ([A-Z]+) \| `([^`]+)` \| ([^|]+) \| \S", REFERENCE.read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) == len(set(rows))
    assert {(method, path): needs for method, path, needs in rows} == {
        (method, path): in_words(OPERATIONS[operation["operationId"]])
        for method, path, operation in town.api.operations()
    }


def in_words(case: Case) -> str:
    """What the reference says that an operation needs."""
    if case.for_whom != "people":
        return {"anybody": "nothing", "agent": "an agent", "gateway": "a gateway"}[case.for_whom]
    if case.operator:
        return "operator"
    return ", ".join(sorted(case.needs)) or "any"


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_who_may_do_it(town: Town, pristine: sqlite3.Connection, operation_id: str) -> None:
    """A2, A3, A4, H2: rights are separate; what is another's does not exist."""
    case = OPERATIONS[operation_id]
    before = everything(town.world.database)
    refused = {whose: status for whose, status in expected(case).items() if status >= 400}
    allowed = {whose: status for whose, status in expected(case).items() if status < 400}
    found = {whose: town.ask(whose, operation_id) for whose in refused}
    assert {whose: answer.status_code for whose, answer in found.items()} == refused
    for answer in found.values():
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert everything(town.world.database) == before, "a refusal changes nothing"

    for whose, status in allowed.items():
        answer = town.ask(whose, operation_id)
        assert answer.status_code == status, (whose, answer.text)
        restore(town, pristine)


def expected(case: Case) -> dict[str, int]:
    """What each caller is answered."""
    dead = ("nobody", "revoked", "expired")
    people = ("owner", "narrowed", "other account", "operator")
    single = tuple(f"only {right}" for right in ALL_RIGHTS)
    agents = ("agent", "put-only agent", "other agent")
    everybody = (*dead, *people, *single, *agents, "gateway")
    if case.for_whom == "anybody":
        return dict.fromkeys(everybody, case.status)
    answers = dict.fromkeys(everybody, 403) | dict.fromkeys(dead, 401)
    if case.for_whom == "gateway":
        return answers | {"gateway": case.status}
    if case.for_whom == "agent":
        others = 404 if case.names else case.status
        return answers | {
            "agent": case.status,
            "put-only agent": others,
            "other agent": others,
        }
    if case.operator:
        return answers | {"operator": case.status}
    outside = 404 if case.names else case.status
    answers |= {"owner": case.status, "other account": outside, "operator": outside}
    answers["narrowed"] = case.narrowed or outside
    for right in ALL_RIGHTS:
        if case.needs <= {right}:
            answers[f"only {right}"] = case.status
    return answers


@pytest.mark.parametrize(
    "operation_id",
    [
        name
        for name, case in OPERATIONS.items()
        if case.names and case.for_whom == "people" and not case.operator
    ],
)
def test_another_accounts_things_are_answered_like_things_that_are_not(
    town: Town, operation_id: str
) -> None:
    """A4: errors do not tell whether something of another account exists."""
    theirs = town.ask("other account", operation_id)
    really = dict(town.ids)
    try:
        for name in town.ids:
            if re.fullmatch(r"[0-9a-f-]{36}", town.ids[name]):
                town.ids[name] = "00000000-0000-4000-8000-000000000000"
        nobodys = town.ask("other account", operation_id)
    finally:
        town.ids.update(really)
    assert anonymous(theirs) == anonymous(nobodys)


def anonymous(answer: httpx.Response) -> Any:
    document = answer.json()
    del document["request_id"]
    return re.sub(r"[0-9a-f-]{36}", "(id)", json.dumps(document))


def test_secrets_are_nowhere_in_clear(town: Town, pristine: sqlite3.Connection) -> None:
    """A2: secrets are shown once; none is in a log, an error or the database."""
    handed_out = set(town.secrets.values()) | {"correct horse", REPOSITORY_PASSWORD}
    owner = town.api.client(town.secrets["owner"])
    asked = {
        "/api/v1/tokens": {"name": "scan", "rights": ["read"]},
        "/api/v1/webhooks": {"url": "https://hooks.example.org/scan"},
        "/api/v1/hosts/invitations": {},
    }
    answers = [
        owner.post(path, json=body, headers={"Idempotency-Key": path})
        for path, body in asked.items()
    ]
    handed_out |= {answer.json()["secret"] for answer in answers}
    machine = {"name": "scan", "roots": [{"path": "/root"}]}
    enrolled = town.api.client().post(
        "/api/v1/agent/enrol", json={"token": answers[2].json()["secret"], **machine}
    )
    handed_out.add(enrolled.json()["credential"])
    session = town.api.client().post(
        "/api/v1/sessions", json={"email": "owner@example.org", "password": "correct horse"}
    )
    handed_out.add(session.cookies["holdfast_session"])
    operator = town.api.client(town.secrets["operator"])
    options = {"aws_secret_access_key": "the store's own secret"}
    region = {"name": "scan", "location": "s3://bucket", "options": options}
    assert operator.post("/api/v1/regions", json=region).status_code == 201
    handed_out.add("the store's own secret")
    member = {"email": "scan@example.org", "role": "viewer", "password": "a new member's"}
    assert owner.post("/api/v1/members", json=member).status_code == 201
    handed_out.add("a new member's")
    refused = [
        town.api.client(secret).post("/api/v1/sources", json={"host_id": secret, "x": secret})
        for secret in handed_out
        if secret.isascii() and "\n" not in secret
    ]

    with town.world.database.read() as tx:
        rows = [
            str(tuple(row))
            for table in Base.metadata.sorted_tables
            for row in tx.execute(text(f'SELECT * FROM "{table.name}"'))
        ]
    places = {
        "log": [str(line) for line in town.api.log],
        "error": [answer.text for answer in refused],
        "database": rows,
    }
    for place, texts in places.items():
        assert texts
        for secret in handed_out:
            assert not any(secret in each for each in texts), f"a secret is in the {place}"
    restore(town, pristine)


def test_an_agent_reaches_its_own_jobs_only(town: Town, pristine: sqlite3.Connection) -> None:
    """H2: a machine that was taken over changes nothing but its own work."""
    with town.world.database.read() as tx:
        run = tx.scalars(select(Snapshot).where(Snapshot.job_id == town.ids["leased_job"])).one()
    assert run.host_id == town.host.id
    assert town.ask("put-only agent", "finish_job").status_code == 404
    assert town.ask("agent", "finish_job").json()["state"] == "failed"
    restore(town, pristine)
