"""The API against its own OpenAPI document: what schemathesis makes of it.

Every operation gets requests at and beyond the bounds of its schema, once for things that
are not there and once for things that are. No answer may be a server's error or something
that the document does not say, and what the schema forbids is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from api_world import ORIGIN, Api, caught_log
from control_tasks import Tasks
from control_world import World
from schemathesis import BaseSchema, Case, hooks
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import Status, events, from_schema
from schemathesis.engine.run import PhaseName
from sqlalchemy import select

from holdfast.control import (
    drills,
    holds,
    prices,
    restores,
    schedules,
    snapshots,
    task_snapshots,
    tokens,
    webhooks,
)
from holdfast.control.database import Database
from holdfast.control.tables import (
    Drill,
    Hold,
    Host,
    Job,
    Repository,
    Restore,
    Schedule,
    SignIn,
    Snapshot,
    Source,
    Task,
    TaskPreview,
    TaskSnapshot,
    Webhook,
)
from holdfast.edge.deployment import SESSION_COOKIE

DOCUMENT = "/api/v1/openapi.json"
EXAMPLES = 2
SIGN_OUT = "sign_out_session"
UNSOUND = {
    # Whether an id, a path or a word is right is not for a schema to say.
    "positive_data_acceptance": {"enabled": False},
    # Credentials are given to all of the run; the matrix of rights is another test's.
    "ignored_auth": {"enabled": False},
    "object_level_authorization": {"enabled": False},
    # What is revoked or removed stays to be seen.
    "use_after_free": {"enabled": False},
    "ensure_resource_availability": {"enabled": False},
}


SETTINGS: dict[str, Any] = {
    "generation": {
        "max-examples": EXAMPLES,
        "deterministic": True,
        "no-shrink": True,
        "with-security-parameters": False,
    },
    "phases": {"examples": {"enabled": False}, "stateful": {"enabled": False}},
    "checks": UNSOUND,
    "workers": 1,
}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Api]:
    """An API with one of everything in it."""
    path = tmp_path_factory.mktemp("fuzzed") / "control.db"
    shutil.copyfile(sqlite_template, path)
    database = Database(f"sqlite:///{path}")
    world = World(database)
    api = Api(world)
    with caught_log(api.log):
        one_of_everything(world)
        yield api
    api.close()
    database.close()


def with_real_things(world: World) -> Callable[[Any, Case[Any], Any], None]:
    """Put ids of what is there into everything that is valid, so that it goes further in."""
    ids: dict[str, str | None] = {"account_id": world.account.id, "region_id": world.region.id}
    account = world.operator_account
    with world.database.read() as tx:
        for table in (
            Host,
            Source,
            Schedule,
            Snapshot,
            Restore,
            Drill,
            Job,
            Webhook,
            Hold,
            Repository,
        ):
            own = select(table.id).where(table.account_id == account.id).limit(1)
            ids[f"{table.__name__.lower()}_id"] = tx.scalar(own)
        ids["task_id"] = tx.scalar(select(Task.id))
        ids["task_snapshot_id"] = tx.scalar(select(TaskSnapshot.id))
        ids["preview_id"] = tx.scalar(select(TaskPreview.id))

    def real(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: ids[name] if ids.get(name) and isinstance(each, str) else real(each)
                for name, each in value.items()
            }
        return value

    def before_call(_context: Any, case: Case[Any], _kwargs: Any) -> None:
        for location, attribute in (
            (ParameterLocation.PATH, "path_parameters"),
            (ParameterLocation.QUERY, "query"),
            (ParameterLocation.BODY, "body"),
        ):
            if case.meta is not None and not case.meta.is_negative_at(location):
                setattr(case, attribute, real(getattr(case, attribute)))
        if case.meta is not None and not case.meta.is_negative_at(ParameterLocation.QUERY):
            case.query.pop("cursor", None)

    return before_call


def one_of_everything(world: World) -> None:
    who, account = world.operator(), world.operator_account
    host = world.add_host(account)
    source = world.add_source(host)
    repository = world.add_repository(account)
    snapshot = world.add_snapshot(source, repository)
    world.add_user("viewer@example.org", account=account, role="viewer")
    with world.database.write() as tx:
        schedules.create(
            tx, who, source_id=source.id, preset="daily", retention={"keep_last": 3}, now=world.now
        )
        holds.place(tx, who, snapshot.id, reason="audit", now=world.now)
        webhooks.create(tx, who, url="https://hooks.example.org/a", keys=world.keys, now=world.now)
        prices.refresh(tx, prices.DEFAULT_PRICES, origin="test", now=world.now)
        snapshots.request(tx, who, source_id=source.id, now=world.now, keys=world.keys)
        restores.request(tx, who, snapshot_id=snapshot.id, host_id=host.id, now=world.now)
        drills.request(tx, who, snapshot_id=snapshot.id, now=world.now)
    made = Tasks(world, repository=repository, account=account)
    task, _ = made.running(made.host())
    with world.database.write() as tx:
        task_snapshots.request(tx, who, task.id, now=world.now)
        task_snapshots.preview_ask(tx, who, task.id, now=world.now)


def signed_in(api: Api) -> str:
    """The cookie of an operator's session."""
    world, secret = api.world, "hs_" + "s" * 43
    user, _ = world.add_user("operator@example.org", account=world.operator_account)
    world.insert(
        SignIn(
            account_id=world.operator_account.id,
            user_id=user.id,
            secret_sha256=tokens.sha256_of(secret),
            created_at=world.now,
            expires_at=world.now + timedelta(days=1),
        )
    )
    return secret


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("caller", ["agent", "gateway", "people"])
def test_no_request_is_answered_in_another_way_than_documented(furnished: Api, caller: str) -> None:
    """I1: OpenAPI 3.1 that says what happens."""
    api = furnished
    headers = {
        "agent": lambda: {"Authorization": f"Bearer {api.agent_token(api.world.add_host())}"},
        "gateway": lambda: {"Authorization": f"Bearer {api.gateway_token()}"},
        # A session, because a token would be found in the list of tokens and revoked.
        "people": lambda: {"Cookie": f"{SESSION_COOKIE}={signed_in(api)}", "Origin": ORIGIN},
    }[caller]()
    config = SchemathesisConfig.from_dict({"headers": headers} | SETTINGS)
    schema: BaseSchema = schemathesis.openapi.from_asgi(DOCUMENT, api.app, config=config)
    others = {"agent", "gateway"} - {caller}
    # Signing out would leave the rest of the run without a credential.
    schema = schema.exclude(tag=sorted(others)).exclude(operation_id=SIGN_OUT)
    if caller != "people":
        schema = schema.include(tag=caller)
    put_real_ids = with_real_things(api.world)
    schemathesis.hook("before_call")(put_real_ids)
    try:
        wrong, tested, succeeded = outcome(from_schema(schema).execute())
    finally:
        hooks.unregister(put_real_ids)

    assert not wrong, "\n\n".join(f"{name}:\n{text}" for name, text in wrong.items())
    every = {
        f"{method} {path}"
        for method, path, operation in api.operations()
        if not others & set(operation["tags"])
        and (caller == "people" or caller in operation["tags"])
        and operation["operationId"] != SIGN_OUT
    }
    assert tested[PhaseName.COVERAGE] == tested[PhaseName.FUZZING] == every
    if caller == "people":
        assert len(succeeded) > len(every) * 0.7, "most of it went no further than its schema"
    assert not [line for line in api.log if line["event"] == "unexpected"]


def outcome(
    run: Iterable[events.EngineEvent],
) -> tuple[dict[str, str], dict[PhaseName, set[str]], set[str]]:
    """What was wrong; what was tested in each phase; and what succeeded at least once."""
    wrong: dict[str, str] = {}
    tested: dict[PhaseName, set[str]] = {}
    succeeded: set[str] = set()
    for event in run:
        if isinstance(event, events.NonFatalError | events.FatalError):
            value = event.value if isinstance(event, events.NonFatalError) else event.exception
            wrong[f"error in {event!r}"] = repr(value)
        if not isinstance(event, events.ScenarioFinished) or event.label is None:
            continue
        if event.status is not Status.SKIP:
            tested.setdefault(event.phase, set()).add(event.label)
        for each in event.recorder.interactions.values():
            if each.response is not None and each.response.status_code < 300:
                succeeded.add(event.label)
        for node in chain.from_iterable(event.recorder.checks.values()):
            if node.failure_info is not None:
                found = node.failure_info
                wrong[f"{event.label} {found.failure.title}"] = (
                    f"{found.failure.message}\n{found.code_sample}"
                )
    return wrong, tested, succeeded
