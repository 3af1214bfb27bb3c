"""Regions and repositories (A3, A4): sealed credentials, one repository for each account."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from control_world import REPOSITORY_PASSWORD, World
from sqlalchemy import select, text

from holdfast.control import regions
from holdfast.control.principal import ALL_RIGHTS, Right
from holdfast.control.tables import AuditEntry, Region, Repository
from holdfast.errors import Forbidden, NameTaken, NotFound, UsageError, WrongMasterKey

OPTIONS = {"access_key_id": "AKIA", "secret_access_key": "very secret"}


def create(world: World, **fields: Any) -> Region:
    fields = {"name": "s3", "location": "s3:https://s3/bucket", "options": OPTIONS} | fields
    with world.database.write() as tx:
        return regions.create(tx, keys=world.keys, now=world.now, **fields)


def test_a3_a_regions_credentials_are_kept_sealed_and_out_of_the_log(world: World) -> None:
    region = create(world)
    assert regions.options_of(world.again(region), world.keys) == OPTIONS
    assert regions.options_of(create(world, name="dir", options=None), world.keys) == {}
    with world.database.read() as tx:
        for table in ("regions", "audit"):
            assert "very secret" not in str(tx.execute(text(f"SELECT * FROM {table}")).all())


def test_a3_a_regions_options_do_not_open_in_another_region(world: World) -> None:
    region, other = create(world), create(world, name="other")
    world.set(other, sealed_options=region.sealed_options)
    with pytest.raises(WrongMasterKey):
        regions.options_of(world.again(other), world.keys)


def test_a3_operators_add_regions_and_change_their_credentials(world: World) -> None:
    operator = world.operator()
    with world.database.write() as tx:
        region = regions.create_as(
            tx, operator, name="b", location="/b", options=OPTIONS, keys=world.keys, now=world.now
        )
        regions.set_options(tx, operator, region.id, {"x": "y"}, keys=world.keys, now=world.now)
    assert regions.options_of(world.again(region), world.keys) == {"x": "y"}
    with world.database.read() as tx:
        log = tx.scalars(select(AuditEntry).order_by(AuditEntry.id)).all()
        assert [(each.account_id, each.action) for each in log] == [
            (world.operator_account.id, "region.create"),
            (world.operator_account.id, "region.options"),
        ]
        assert [each.name for each in regions.regions(tx, world.principal())] == ["b", "here"]
    for who in (world.principal(), world.principal(world.operator_account, {Right.READ})):
        with world.database.write() as tx:
            with pytest.raises(Forbidden):
                regions.create_as(
                    tx, who, name="c", location="/c", options=None, keys=world.keys, now=world.now
                )
            with pytest.raises(Forbidden):
                regions.set_options(tx, who, region.id, {}, keys=world.keys, now=world.now)


def test_a_region_has_a_name_of_its_own(world: World) -> None:
    create(world)
    with pytest.raises(NameTaken, match="s3"):
        create(world)
    for fields in ({"name": " "}, {"name": "x" * 51}, {"location": ""}, {"location": "a\0"}):
        with pytest.raises(UsageError):
            create(world, **fields)


def repository(world: World, account_id: str) -> Repository:
    with world.database.write() as tx:
        return regions.repository_for(
            tx, account_id, world.region.id, keys=world.keys, now=world.now
        )


def test_a4_each_account_has_its_own_repository_and_password(world: World) -> None:
    other = world.add_account("Other")
    mine, theirs = repository(world, world.account.id), repository(world, other.id)
    assert mine.id == repository(world, world.account.id).id != theirs.id
    with world.database.read() as tx:
        passwords = {regions.password_of(tx, each, world.keys) for each in (mine, theirs)}
        assert [each.id for each in regions.repositories(tx, world.principal(other))] == [theirs.id]
    assert len(passwords) == 2
    assert {len(each) for each in passwords} == {43}
    world.set(mine, sealed_password=theirs.sealed_password)
    with world.database.read() as tx, pytest.raises(WrongMasterKey):
        regions.password_of(tx, world.again(mine), world.keys)


def test_two_first_uses_at_once_make_one_repository(world: World) -> None:
    together = threading.Barrier(4, timeout=60)
    found: list[str] = []

    def first_use() -> None:
        together.wait()
        row = world.database.transact(
            lambda tx: regions.repository_for(
                tx, world.account.id, world.region.id, keys=world.keys, now=world.now
            )
        )
        found.append(row.id)

    threads = [threading.Thread(target=first_use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    with world.database.read() as tx:
        assert len(tx.scalars(select(AuditEntry)).all()) == 1


def test_there_is_no_repository_in_a_region_that_does_not_exist(world: World) -> None:
    with world.database.write() as tx, pytest.raises(NotFound):
        regions.repository_for(tx, world.account.id, "none", keys=world.keys, now=world.now)


def test_a2_a5_revealing_the_password_takes_two_rights_and_is_noted(world: World) -> None:
    row = world.add_repository()
    for right in (Right.RESTORE, Right.ADMINISTER):
        weak = world.principal(rights=ALL_RIGHTS - {right})
        with world.database.write() as tx, pytest.raises(Forbidden):
            regions.reveal_password(tx, weak, row.id, keys=world.keys, now=world.now)
    narrowed = world.principal(resources=frozenset({row.id}))
    with world.database.write() as tx, pytest.raises(Forbidden):
        regions.reveal_password(tx, narrowed, row.id, keys=world.keys, now=world.now)
    who = world.principal()
    with world.database.write() as tx:
        found = regions.reveal_password(tx, who, row.id, keys=world.keys, now=world.now)
    assert found == REPOSITORY_PASSWORD
    with world.database.read() as tx:
        entry = tx.scalars(select(AuditEntry)).one()
    assert (entry.action, entry.actor_id, entry.subject_id) == (
        "repository.reveal",
        who.id,
        row.id,
    )


def test_a3_a4_nobody_else_reveals_it_an_operator_neither(world: World) -> None:
    row = world.add_repository()
    messages = set()
    for who in (world.operator(), world.principal(world.add_account("Other"))):
        for repository_id in (row.id, "none"):
            with world.database.write() as tx, pytest.raises(NotFound) as caught:
                regions.reveal_password(tx, who, repository_id, keys=world.keys, now=world.now)
            messages.add(caught.value.message.replace(repository_id, "ID"))
    assert len(messages) == 1
