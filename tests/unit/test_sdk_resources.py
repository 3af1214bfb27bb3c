"""The SDK against a real server: every resource, every operation, the errors as classes."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from types import ModuleType

import pytest
from pydantic import BaseModel
from sdk_server import SdkServer, TinyAgent, agent, client, sdk_server

from holdfast.api import accounts as api_accounts
from holdfast.api import audit as api_audit
from holdfast.api import billing as api_billing
from holdfast.api import buckets as api_buckets
from holdfast.api import drills as api_drills
from holdfast.api import events as api_events
from holdfast.api import hosts as api_hosts
from holdfast.api import jobs as api_jobs
from holdfast.api import members as api_members
from holdfast.api import prices as api_prices
from holdfast.api import regions as api_regions
from holdfast.api import repositories as api_repositories
from holdfast.api import restores as api_restores
from holdfast.api import schedules as api_schedules
from holdfast.api import sessions as api_sessions
from holdfast.api import snapshots as api_snapshots
from holdfast.api import sources as api_sources
from holdfast.api import task_snapshots as api_task_snapshots
from holdfast.api import tasks as api_tasks
from holdfast.api import tokens as api_tokens
from holdfast.api import webhooks as api_webhooks
from holdfast.errors import (
    Forbidden,
    HoldfastError,
    InUse,
    NotFound,
    NotReady,
    NotSignedIn,
    UsageError,
)
from holdfast.model.progress import Progress
from holdfast.sdk import (
    accounts,
    audit,
    billing,
    buckets,
    drills,
    events,
    hosts,
    jobs,
    me,
    members,
    prices,
    regions,
    repositories,
    restores,
    schedules,
    snapshots,
    sources,
    task_snapshots,
    tasks,
    tokens,
    webhooks,
)
from holdfast.sdk.client import Client
from holdfast.sdk.sign_in import sign_in

__all__ = ["agent", "client", "sdk_server"]

pytestmark = pytest.mark.xdist_group("sdk")

PAIRS: tuple[tuple[ModuleType, ModuleType], ...] = (
    (accounts, api_accounts),
    (audit, api_audit),
    (billing, api_billing),
    (buckets, api_buckets),
    (drills, api_drills),
    (events, api_events),
    (hosts, api_hosts),
    (jobs, api_jobs),
    (me, api_sessions),
    (members, api_members),
    (prices, api_prices),
    (regions, api_regions),
    (repositories, api_repositories),
    (restores, api_restores),
    (schedules, api_schedules),
    (snapshots, api_snapshots),
    (sources, api_sources),
    (task_snapshots, api_task_snapshots),
    (tasks, api_tasks),
    (tokens, api_tokens),
    (webhooks, api_webhooks),
)


CALLED_OTHERWISE = {
    "TaskSnapshot": "ShownTaskSnapshot",
    "TaskInput": "ShownInput",
    "Constant": "ShownConstant",
}
"""Records whose document has another name, because a table or a body has theirs."""


def documents(module: ModuleType) -> dict[str, set[str]]:
    """The names of the members of every answer that an API module defines."""
    return {
        name: set(kind.model_fields)
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and issubclass(kind, BaseModel)
        and kind.__module__ == module.__name__
    }


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda module: str(module.__name__))
def test_records_have_the_members_that_the_api_answers(
    ours: ModuleType, theirs: ModuleType
) -> None:
    """I1: the same words in API and SDK."""
    answers = documents(theirs)
    compared = 0
    for name, kind in vars(ours).items():
        theirs_name = CALLED_OTHERWISE.get(name, name)
        if not isinstance(kind, type) or kind.__module__ != ours.__name__:
            continue
        if theirs_name in answers:
            assert {each.name for each in fields(kind)} == answers[theirs_name], name
            compared += 1
    assert compared


def test_whoever_signs_in_gets_a_token_and_no_session_stays(
    sdk_server: SdkServer, client: Client
) -> None:
    """A2: signing in with a password, rights of a token."""
    mine = client.me.get()
    assert mine.kind == "token"
    assert set(mine.rights) == {"create", "read", "restore", "delete", "administer"}
    with pytest.raises(NotSignedIn), Client(sdk_server.url, "hf_" + "x" * 43) as stranger:
        stranger.me.get()
    with pytest.raises(HoldfastError, match=r"password|address"):
        sign_in(sdk_server.url, "admin@localhost", "wrong", token_name="x")


def test_tokens_are_limited_and_revoked(sdk_server: SdkServer, client: Client) -> None:
    issued = client.tokens.create(
        "reader", ["read"], expires_at=datetime.now(UTC) + timedelta(days=1)
    )
    with Client(sdk_server.url, issued.secret) as reader:
        assert reader.me.get().rights == ("read",)
        with pytest.raises(Forbidden, match="administer"):
            reader.hosts.invite()
        client.tokens.revoke(issued.token.id)
        with pytest.raises(NotSignedIn):
            reader.me.get()
    found = {each.id: each for each in client.tokens.list()}
    assert found[issued.token.id].revoked_at is not None


def test_a_list_is_fetched_page_by_page(client: Client) -> None:
    made = [client.tokens.create(f"page {number}", ["read"]).token.id for number in range(60)]
    listed = [each.id for each in client.tokens.list()]
    assert len(listed) == len(set(listed))
    assert set(made) <= set(listed)
    assert len(list(islice(client.tokens.list(), 3))) == 3


def test_a_post_that_is_repeated_with_its_key_is_done_once(client: Client) -> None:
    body = {"name": "once", "rights": ["read"]}
    answers = [
        client._transport.request("POST", "/api/v1/tokens", body=body, key="same") for _ in range(2)
    ]
    assert answers[0].document == answers[1].document


def test_a_source_is_protected_run_restored_and_removed(client: Client, agent: TinyAgent) -> None:
    """B1 B5 B6: the life of a backup, over the SDK."""
    host = client.hosts.get(agent.host_id)
    assert host.status == "online"
    assert [each.id for each in client.hosts.list(search="gpu")] == [host.id]
    host = client.hosts.edit(host.id, labels={"rack": "7"}, max_jobs=3)
    assert host.labels == {"rack": "7"}

    source = client.sources.create(host.id, "/root/work", labels={"team": "vision"})
    source = client.sources.edit(source.id, options={"exclude": ["*.tmp"]})
    assert client.sources.get(source.id).options["exclude"] == ["*.tmp"]
    assert [each.id for each in client.sources.list(host_id=host.id)] == [source.id]

    schedule = client.schedules.create(
        source.id, name="nightly", preset="daily", retention={"keep_daily": 7}
    )
    assert client.schedules.pause(schedule.id).due_at is None
    assert client.schedules.resume(schedule.id).due_at is not None
    assert client.schedules.edit(schedule.id, drill_days=30).drill_due_at is not None
    assert client.schedules.edit(schedule.id, drill_days=None).drill_due_at is None
    schedule = client.schedules.edit(schedule.id, interval_hours=6, retention={"keep_last": 2})
    assert schedule.preset == "6h"
    assert len(client.schedules.next_runs(schedule.id, 3)) == 3
    assert [each.id for each in client.schedules.list(source_id=source.id)] == [schedule.id]

    agent.hold.set()
    started = client.schedules.run(schedule.id)
    seen: list[Progress] = []

    def report(progress: Progress) -> None:
        seen.append(progress)
        if progress.bytes_done:
            agent.hold.clear()

    done = client.snapshots.wait(started, report=report, poll_seconds=0.02)
    assert done.status == "COMPLETED"
    assert done.stored_bytes == 50
    assert seen[-1].step == "reading"
    assert client.schedules.preview(schedule.id).keeps >= 1
    assert "reading" in [line.text for line in client.snapshots.log(done.id)]
    assert done.job_id is not None
    assert client.jobs.get(done.job_id).state == "succeeded"
    assert [each.id for each in client.jobs.list(subject_id=done.id)] == [done.job_id]
    assert list(client.jobs.log(done.job_id))

    named = client.snapshots.edit(done.id, name="good", description="d", labels={"run": "1"})
    assert [each.id for each in client.snapshots.list(search="good")] == [named.id]
    assert [each.id for each in client.snapshots.list(label="run=1", status="COMPLETED")]
    hold = client.snapshots.hold(done.id, "a paper")
    with pytest.raises(InUse):
        client.snapshots.delete(done.id)
    client.snapshots.release(done.id, hold.id)
    assert [each.released_at is None for each in client.snapshots.holds(done.id)] == [False]
    assert client.snapshots.delete(done.id).purge_at is not None
    assert client.snapshots.recover(done.id).status == "COMPLETED"

    restore = client.restores.create(done.id, host.id, target="/root/back", paths=["a"])
    restored = client.restores.wait(restore, poll_seconds=0.02)
    assert (restored.status, restored.files) == ("COMPLETED", 3)
    assert [each.id for each in client.restores.list(snapshot_id=done.id)] == [restore.id]
    assert list(client.restores.log(restore.id))

    drill = client.drills.create(done.id, host_id=host.id)
    drilled = client.drills.wait(drill, poll_seconds=0.02)
    assert (drilled.status, drilled.passed, drilled.compared_bytes) == ("COMPLETED", True, 90)
    assert [each.id for each in client.drills.list(snapshot_id=done.id)] == [drill.id]
    assert list(client.drills.log(drill.id))
    proven = client.snapshots.get(done.id)
    assert proven.drill is not None
    assert (proven.drill["drill_id"], proven.drill["restore_seconds"]) == (drill.id, 1.5)
    assert proven.proven_at == max(filter(None, (proven.drilled_at, proven.verified_at)))
    unfit = client.drills.create(done.id, paths=["a"])
    assert (unfit.host_id, unfit.paths) == (None, ("a",))
    assert client.drills.cancel(unfit.id).status == "CANCELLED"

    there = client.regions.create("another region", "s3://elsewhere")
    copy = client.snapshots.copy(done.id, there.id)
    assert (copy.status, copy.copy_of_id, copy.region_id) == ("PENDING", done.id, there.id)
    assert [each.id for each in client.snapshots.list(copy_of=done.id)] == [copy.id]
    assert copy.id in [each.id for each in client.snapshots.list(copies=True)]
    assert copy.id not in [each.id for each in client.snapshots.list()]
    assert client.snapshots.cancel(copy.id).status == "CANCELLED"
    costs = client.billing.estimate_copy(done.id, there.id).costs
    assert {each.region_id for each in costs} == {done.region_id, there.id}
    copied = client.schedules.edit(schedule.id, copy_region_id=there.id)
    assert (copied.copy_region_id, copied.copies_pending, copied.copy_lag_seconds) == (
        there.id,
        0,
        0,
    )
    assert client.schedules.edit(schedule.id, copy_region_id=None).copies_pending is None
    keeper = client.hosts.invite(keeper=True, region_id=there.id)
    client.tokens.revoke(keeper.id)

    agent.hold.set()
    unwanted = client.snapshots.create(source.id, name="by hand", labels={"why": "test"})
    client.snapshots.cancel(unwanted.id)
    assert client.snapshots.wait(unwanted.id, poll_seconds=0.02).status == "CANCELLED"
    agent.hold.set()
    again = client.restores.create(done.id, host.id, target="/root/other")
    client.restores.cancel(again.id)
    assert client.restores.wait(again.id, poll_seconds=0.02).status == "CANCELLED"
    agent.hold.set()
    third = client.snapshots.create(source.id)
    assert third.job_id is not None
    client.jobs.cancel(third.job_id)
    assert client.snapshots.wait(third, poll_seconds=0.02).status == "CANCELLED"
    agent.hold.clear()

    assert client.billing.cost(done.id).currency
    assert client.billing.estimate_snapshot(source.id, expected_bytes=10**9).costs
    assert client.billing.estimate_restore(done.id).subject_id == done.id
    assert client.billing.estimate_schedule(source.id, preset="daily", retention={"keep_last": 3})
    client.schedules.remove(schedule.id)
    client.sources.remove(source.id)
    assert [each.id for each in client.sources.list(removed=True)] == [source.id]
    with pytest.raises(NotFound):
        client.schedules.get("00000000-0000-4000-8000-000000000000")


def test_a_task_is_submitted_watched_snapshotted_and_removed(
    client: Client, agent: TinyAgent
) -> None:
    """T1 T3 T4 T7: the words of a task's host arrive, and those to it."""
    profiles = {each.name: each for each in client.tasks.profiles()}
    assert profiles["batch"].required == ("COMMAND",)
    assert profiles["batch"].constants[0].name == "COMMAND"
    bucket = client.buckets.create("sdk-results")
    assert client.buckets.create("sdk-results").id == bucket.id
    task = client.tasks.submit(
        "train",
        constants={"COMMAND": "true"},
        result_bucket="sdk-results",
        short_name="sdk",
        tags=["one"],
        labels={"team": "vision"},
        periodic={"seconds": 60, "bucket_prefix": "every/"},
        inputs=[{"bucket": "sdk-results", "prefix": "in/"}],
    )
    assert (task.state, task.has_ended) == ("Submitted", False)
    assert task.inputs == (tasks.TaskInput("sdk-results", "in/"),)
    assert task.constants == (tasks.Constant("COMMAND", "true"),)
    for narrowed in ({"tag": "one"}, {"label": "team=vision"}, {"search": "SDK"}):
        assert [each.id for each in client.tasks.list(**narrowed)] == [task.id]
    assert list(client.tasks.list(state="Success")) == []
    with pytest.raises(NotReady):
        client.task_snapshots.create(task.id)

    host = agent.take_task()
    (instance,) = client.tasks.instances(task.id)
    assert (instance.number, instance.state) == (0, "executing")
    half = "\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode()
    host.write(b"one " + half[:1])
    host.write(half[1:])
    pieces = list(client.tasks.output(task.id))
    assert "".join(each.text for each in pieces) == "one \N{LATIN SMALL LETTER U WITH DIAERESIS}"
    assert b"".join(each.data for each in pieces) == b"one " + half
    assert b"".join(client.tasks.whole_output(task.id, instance=0)) == b"one " + half
    assert list(client.tasks.output(task.id, "stderr")) == []

    assert client.tasks.renew_inputs(task.id).id == task.id
    assert client.tasks.set_periodic(task.id, 30, whitelist="x").periodic_seconds == 30
    client.tasks.stop_periodic(task.id)
    assert client.tasks.get(task.id).periodic_seconds is None
    with pytest.raises(UsageError, match="missing"):
        client.task_snapshots.create(task.id, whitelist="(")
    asked = client.task_snapshots.create(task.id, label="first", notes="n", bucket_prefix="p/")
    assert (asked.status, asked.is_under_way, asked.trigger) == ("triggered", True, "manual")
    assert asked.directory.startswith("p/")
    assert client.task_snapshots.edit(asked.id, label="second").label == "second"
    host.fail(asked)
    done = client.task_snapshots.wait(asked.id, poll_seconds=0.02)
    assert (done.status, done.is_deleted) == ("failure", False)
    (part,) = done.parts
    assert (part.instance, part.status, part.error_code) == (0, "FAILED", "target_full")
    assert [each.id for each in client.task_snapshots.list(task.id, status="failure")] == [done.id]
    assert list(client.task_snapshots.list(task.id, status="success")) == []
    with suppress(HoldfastError):
        client.task_snapshots.delete(done.id)

    answer = {"files": 1, "bytes": 2, "entries": [{"path": "a", "bytes": 2}], "cut": False}
    threading.Timer(0.2, lambda: host.answer(answer)).start()
    looked = client.tasks.preview(task.id, whitelist="a").answer
    assert looked is not None
    assert looked.entries == (tasks.PreviewEntry("a", 2),)

    assert client.tasks.edit(task.id, name="other", labels={}).labels == {}
    assert client.tasks.abort(task.id).state == "PendingCancel"
    host.end()
    ended = client.tasks.wait(task.id, poll_seconds=0.02)
    assert (ended.state, ended.has_ended) == ("Cancelled", True)
    client.tasks.delete(task.id)
    with pytest.raises(NotFound):
        client.tasks.get(task.id)
    assert "sdk-results" in [each.name for each in client.buckets.list()]
    assert client.buckets.get("sdk-results").objects == 0
    client.buckets.remove("sdk-results", contents=True)
    with pytest.raises(NotFound):
        client.buckets.get("sdk-results")


def test_events_are_listed_and_watched(client: Client) -> None:
    """S7: nothing is missed between a list and the stream that follows it."""
    last = 0
    for event in client.events.list():
        last = event.id
    seen = client.events.watch(after_id=last, kinds=["host.revoked"])
    invited = client.hosts.invite(name="gone")
    other = TinyAgent(client.url, invited.secret, "gone")
    threading.Timer(0.1, lambda: client.hosts.revoke(other.host_id)).start()
    found = next(seen)
    assert (found.kind, found.subject_id) == ("host.revoked", other.host_id)
    seen.close()
    other.stop()


def test_webhooks(client: Client) -> None:
    made = client.webhooks.create("https://example.org/hook", kinds=["snapshot.failed"])
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)
    assert client.webhooks.edit(made.webhook.id, active=False).active is False
    assert client.webhooks.get(made.webhook.id).kinds == ("snapshot.failed",)
    client.webhooks.edit(made.webhook.id, active=True)
    event = client.webhooks.test(made.webhook.id)
    assert event.id in [each.event_id for each in client.webhooks.deliveries(made.webhook.id)]
    client.webhooks.remove(made.webhook.id)
    assert made.webhook.id not in [each.id for each in client.webhooks.list()]
    with pytest.raises(UsageError, match="url"):
        client.webhooks.create("ftp://example.org")


def test_people_accounts_and_places(client: Client) -> None:
    """A1 A3: members, profile, accounts with limits, regions."""
    member = client.members.add("b@example.org", "member", password="a long password indeed")
    assert client.members.set_role(member.user_id, "viewer").role == "viewer"
    assert "b@example.org" in [each.email for each in client.members.list()]
    client.members.remove(member.user_id)
    account = client.accounts.edit(name="Lab", recycle_days=3)
    assert (account.name, account.recycle_days) == ("Lab", 3)
    assert client.accounts.edit_profile(country="DE", currency="USD").profile.country == "DE"
    assert client.accounts.own().is_operator
    assert client.accounts.usage().snapshots.quota is None
    region = next(client.regions.list())
    other = client.accounts.create("Customer", region.id, prepaid=True)
    limited = client.accounts.set_quotas(other.id, snapshots=5)
    assert limited.quotas.snapshots == 5
    assert other.id in [each.id for each in client.accounts.list()]
    booked = client.billing.credit(other.id, Decimal("12.50"), note="a gift")
    assert booked.amount == Decimal("12.5")
    assert client.regions.create("elsewhere", "s3://bucket").name == "elsewhere"


def test_money(client: Client) -> None:
    region = next(client.regions.list())
    price = client.prices.set("stored", region.id, "USD", Decimal("0.02"), unit="GB-month")
    assert price.rate == Decimal("0.02")
    assert price.id in [each.id for each in client.prices.list()]
    assert client.billing.balance().currency
    assert list(client.billing.ledger()) is not None
    now = datetime.now(UTC)
    assert client.billing.statement(now.year, now.month).month
    assert "," in client.billing.statement_csv(now.year, now.month)


def test_repositories_and_the_audit_log(client: Client) -> None:
    """I2 A5: the way for plain restic, and that it was shown."""
    repository = next(client.repositories.list())
    access = client.repositories.access(repository.id)
    assert access.password not in repr(access)
    assert "restic" in access.command
    actions = [each.action for each in client.audit.list(subject_id=repository.id)]
    assert actions
    assert client.repositories.declare_lost(repository.id).created_in_store_at is None


def test_one_s_own_password(sdk_server: SdkServer) -> None:
    with sdk_server.sign_in("second") as other, pytest.raises(HoldfastError):
        other.me.change_password("not the old one", "a long password indeed")


def test_every_operation_of_the_api_was_called(sdk_server: SdkServer) -> None:
    """Runs last: I1, nothing of the API is missing from the SDK."""
    app = sdk_server.parts.api(sdk_server.parts.deployment(sdk_server.url))
    offered = set()
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            if not {"agent", "gateway", "operations"} & set(operation.get("tags", ())):
                offered.add((method.upper(), path))
    assert offered - set(sdk_server.calls) == set()
