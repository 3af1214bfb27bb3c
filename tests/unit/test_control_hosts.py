"""Hosts: enrolled once, heard or silent, revoked for good."""

from __future__ import annotations

from typing import Any

import pytest
from control_runs import Runs
from control_world import World
from sqlalchemy import select

from holdfast.control import hosts, tokens
from holdfast.control.hosts import HEARTBEAT_SECONDS, SILENT_AFTER_SECONDS, RunningJob
from holdfast.control.tables import AuditEntry, Host
from holdfast.errors import Forbidden, NotFound, NotReady, NotSignedIn, PathRefused, UsageError

ROOTS = [{"path": "/root", "directory": "/root"}]


def enrol(world: World, secret: str, **said: Any) -> tuple[Host, str]:
    wanted: dict[str, Any] = {
        "name": "box",
        "version": "1.0",
        "roots": ROOTS,
        "inventory": {"kinds": ["path"]},
        "address": "192.0.2.7",
    }
    with world.database.write() as tx:
        return hosts.enrol(tx, secret, now=world.now, **(wanted | said))


def invite(world: World, **wanted: Any) -> str:
    with world.database.write() as tx:
        return hosts.invite(tx, world.principal(), now=world.now, **wanted)[1]


def beat(world: World, host: Host, **said: Any) -> list[str]:
    wanted: dict[str, Any] = {
        "instance": "agent-1",
        "version": "1.0",
        "inventory": {},
        "running": [],
    }
    with world.database.write() as tx:
        return hosts.heartbeat(tx, world.agent(host), now=world.now, **(wanted | said))


def note(world: World) -> int:
    with world.database.write() as tx:
        return hosts.note_silence(tx, now=world.now)


def test_enrolment_gives_a_credential_of_its_own(world: World) -> None:
    """H1."""
    secret = invite(world)
    host, credential = enrol(world, secret)
    assert (host.account_id, host.region_id) == (world.account.id, world.account.region_id)
    assert (host.name, host.roots, host.put_only, host.keeper) == ("box", ROOTS, False, False)
    assert hosts.status_of(host, world.now) == "new"
    with world.database.read() as tx:
        who = tokens.authenticate(
            tx, credential, address="192.0.2.7", request_id="r", now=world.now
        )
        with pytest.raises(NotSignedIn):
            tokens.authenticate(tx, secret, address="192.0.2.7", request_id="r", now=world.now)
    assert (who.kind, who.host_id, who.account_id) == ("agent", host.id, world.account.id)
    with pytest.raises(NotSignedIn):
        enrol(world, secret)
    assert Runs(world).events(host.id) == ["host.enrolled"]


def test_an_invitation_expires_and_can_be_revoked(world: World) -> None:
    late, revoked = invite(world, expires_in_seconds=60), None
    with world.database.write() as tx:
        token, revoked = hosts.invite(tx, world.principal(), now=world.now)
        tokens.revoke(tx, world.principal(), token.id, now=world.now)
    world.advance(seconds=60)
    for secret in (late, revoked, tokens.new_secret(), "nonsense"):
        with pytest.raises(NotSignedIn):
            enrol(world, secret)
    with pytest.raises(UsageError):
        invite(world, expires_in_seconds=0)


def test_a_failed_enrolment_leaves_the_token(world: World) -> None:
    secret = invite(world)
    with pytest.raises(PathRefused):
        enrol(world, secret, roots=[{"path": "relative"}])
    assert enrol(world, secret)[0].name == "box"


def test_an_invitation_stands_above_what_the_machine_says(world: World) -> None:
    secret = invite(world, name="gpu-7", roots=[{"path": "/data//x/"}], put_only=True)
    host, _ = enrol(world, secret)
    assert (host.name, host.put_only) == ("gpu-7", True)
    assert host.roots == [{"path": "/data/x", "directory": "/data/x"}]


def test_only_an_operator_invites_a_keeper(world: World) -> None:
    """A3."""
    with pytest.raises(Forbidden):
        invite(world, keeper=True)
    with world.database.write() as tx:
        _, secret = hosts.invite(tx, world.operator(), keeper=True, now=world.now)
        with pytest.raises(UsageError):
            hosts.invite(tx, world.operator(), keeper=True, put_only=True, now=world.now)
        with pytest.raises(Forbidden):
            hosts.invite(tx, world.principal(rights=["create"]), now=world.now)
    assert enrol(world, secret)[0].keeper


def test_silence_is_noted_once_and_ends_once(world: World) -> None:
    """H1: a silent host is shown as such."""
    host = world.add_host()
    assert SILENT_AFTER_SECONDS == 3 * HEARTBEAT_SECONDS
    heard = world.now
    world.advance(seconds=SILENT_AFTER_SECONDS - 1)
    assert hosts.status_of(host, world.now) == "online"
    assert note(world) == 0
    world.advance(seconds=1)
    assert hosts.status_of(host, world.now) == "silent"
    assert [note(world), note(world)] == [1, 0]
    assert world.again(host).silent_since == heard
    world.advance(hours=1)
    beat(world, host)
    beat(world, host)
    back = world.again(host)
    assert (back.silent_since, back.seen_at) == (None, world.now)
    assert hosts.status_of(back, world.now) == "online"
    assert Runs(world).events(host.id) == ["host.silent", "host.returned"]
    world.advance(seconds=SILENT_AFTER_SECONDS)
    assert note(world) == 1


def test_a_host_that_was_never_heard_is_silent_too(world: World) -> None:
    never, revoked = world.add_host(seen_at=None), world.add_host(revoked_at=world.now)
    assert hosts.status_of(never, world.now) == "new"
    world.advance(minutes=5)
    assert note(world) == 1
    assert hosts.status_of(world.again(never), world.now) == "silent"
    assert hosts.status_of(world.again(revoked), world.now) == "revoked"


def test_a_heartbeat_brings_news_and_says_what_to_stop(world: World) -> None:
    runs, host = Runs(world), world.add_host(max_jobs=3)
    taken = []
    for number in range(3):
        runs.add(world.add_source(host, f"/root/{number}"))
        job = runs.claim(host)
        assert job is not None
        taken.append(job)
    held, wanted_no_more, old = taken
    runs.cancel(wanted_no_more)
    running = [
        RunningJob(held.id, 1),
        RunningJob(wanted_no_more.id, 1),
        RunningJob(old.id, 2),
        RunningJob("unknown", 1),
    ]
    assert beat(world, host, running=running) == [wanted_no_more.id, old.id, "unknown"]
    assert beat(world, host, running=running, instance="agent-0") == [
        each.job_id for each in running
    ]
    beat(world, host, inventory={"gpus": ["H200\x00"]}, version="2.0")
    known = world.again(host)
    assert (known.version, known.inventory) == ("2.0", {"gpus": ["H200�"]})
    assert world.again(held).lease_until == held.lease_until
    with pytest.raises(UsageError):
        beat(world, host, inventory={"a": "x" * 300_000})


def test_a_host_is_edited_by_who_administers(world: World) -> None:
    host = world.add_host()
    with world.database.write() as tx:
        changed = hosts.edit(
            tx,
            world.principal(),
            host.id,
            name="gpu-1",
            labels={"rack": "7"},
            max_jobs=4,
            roots=[{"path": "/data", "directory": "/mnt/data"}],
            now=world.now,
        )
        assert (changed.name, changed.labels, changed.max_jobs) == ("gpu-1", {"rack": "7"}, 4)
        for wrong in ({"max_jobs": 0}, {"max_jobs": 65}, {"name": " "}, {"roots": [{"path": 1}]}):
            with pytest.raises(UsageError):
                hosts.edit(tx, world.principal(), host.id, now=world.now, **wrong)
        with pytest.raises(UsageError):
            hosts.edit(
                tx,
                world.principal(),
                host.id,
                roots=[{"path": "/a"}, {"path": "/a/"}],
                now=world.now,
            )
        with pytest.raises(Forbidden):
            hosts.edit(tx, world.principal(rights=["create"]), host.id, name="x", now=world.now)
        stranger = world.principal(world.operator_account)
        for act in (hosts.edit, hosts.revoke):
            with pytest.raises(NotFound):
                act(tx, stranger, host.id, now=world.now)


def test_revoking_ends_the_credential(world: World) -> None:
    """H1, A5."""
    host, credential = enrol(world, invite(world))
    beat(world, host)
    with world.database.write() as tx:
        hosts.revoke(tx, world.principal(), host.id, now=world.now)
        hosts.revoke(tx, world.principal(), host.id, now=world.now)
    with world.database.read() as tx, pytest.raises(NotSignedIn):
        tokens.authenticate(tx, credential, address="", request_id="", now=world.now)
    with pytest.raises(Forbidden):
        beat(world, host)
    with world.database.write() as tx, pytest.raises(NotReady):
        hosts.edit(tx, world.principal(), host.id, name="x", now=world.now)
    assert Runs(world).events(host.id) == ["host.enrolled", "host.revoked"]
    with world.database.read() as tx:
        statement = select(AuditEntry.action).where(AuditEntry.subject_id == host.id)
        actions = tx.scalars(statement.order_by(AuditEntry.id)).all()
    assert actions == ["host.enrol", "host.revoke"]


def test_hosts_are_listed_within_what_one_may_see(world: World) -> None:
    """A4."""
    one, two = world.add_host(name="alpha_1"), world.add_host(name="beta")
    world.add_host(world.operator_account, name="alpha_x")
    with world.database.read() as tx:
        everything = hosts.hosts(tx, world.principal()).items
        assert {each.id for each in everything} == {one.id, two.id}
        assert [each.id for each in hosts.hosts(tx, world.principal(), search="ALPHA_").items] == [
            one.id
        ]
        narrow = world.principal(resources=frozenset({two.id}))
        assert [each.id for each in hosts.hosts(tx, narrow).items] == [two.id]
        with pytest.raises(NotFound):
            hosts.get(tx, narrow, one.id)
        assert hosts.get(tx, narrow, two.id).name == "beta"
