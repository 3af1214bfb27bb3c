"""Secrets at rest: what opens them, what does not, and changing the master key."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from control_world import REPOSITORY_PASSWORD, World
from sqlalchemy import select

from holdfast.control import regions, sealing
from holdfast.control.sealing import MasterKeys, context_of
from holdfast.control.tables import Base, Region, Repository, Webhook
from holdfast.errors import Conflict, InUse, NotFound, UsageError, WrongMasterKey

KEY, OTHER = b"a" * 32, b"b" * 32


def test_what_was_sealed_opens_for_its_context_only() -> None:
    keys = MasterKeys([KEY])
    sealed = keys.seal(b"secret", "repositories:1")
    assert keys.unseal(sealed, "repositories:1") == b"secret"
    assert sealed != keys.seal(b"secret", "repositories:1")
    assert "secret" not in sealed
    with pytest.raises(WrongMasterKey, match="moved"):
        keys.unseal(sealed, "repositories:2")


def test_every_changed_character_is_noticed() -> None:
    keys = MasterKeys([KEY])
    sealed = keys.seal(b"secret", "c")
    for place, letter in enumerate(sealed):
        changed = sealed[:place] + ("A" if letter != "A" else "B") + sealed[place + 1 :]
        with pytest.raises(WrongMasterKey):
            keys.unseal(changed, "c")
    for broken in (
        "",
        "a.b",
        "s1.x.",
        "s1..!",
        f"s1.{keys.newest_id}.",
        sealed[:-4],
        f"{sealed}.x",
    ):
        with pytest.raises(WrongMasterKey):
            keys.unseal(broken, "c")


def test_another_key_says_which_one_is_missing() -> None:
    sealed = MasterKeys([KEY]).seal(b"secret", "c")
    with pytest.raises(WrongMasterKey, match="put back the file") as caught:
        MasterKeys([OTHER]).unseal(sealed, "c")
    assert MasterKeys([KEY]).newest_id in caught.value.message
    assert KEY.hex()[:12] not in caught.value.message


def test_a_ring_seals_with_the_newest_and_opens_with_any() -> None:
    old = MasterKeys([OTHER])
    ring = MasterKeys([KEY, OTHER])
    assert ring.unseal(old.seal(b"x", "c"), "c") == b"x"
    assert MasterKeys([KEY]).unseal(ring.seal(b"y", "c"), "c") == b"y"


@pytest.mark.parametrize("keys", [[], [b"short"], [KEY, b"x" * 33]])
def test_a_ring_has_keys_of_256_bits(keys: list[bytes]) -> None:
    with pytest.raises(UsageError, match="32 bytes"):
        MasterKeys(keys)


def test_the_file_is_its_owners_and_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "master.key"
    keys = MasterKeys.create(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert MasterKeys.load(str(path)).ids == keys.ids
    with pytest.raises(Conflict, match="not replaced"):
        MasterKeys.create(str(path))
    assert MasterKeys.load(str(path)).ids == keys.ids
    assert os.listdir(path.parent) == ["master.key"]


def test_a_file_that_cannot_be_the_ring_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    with pytest.raises(NotFound, match="Put back"):
        MasterKeys.load(str(path))
    for content in ("", "# only a comment\n", "abc\n", "zz" * 32, "ä"):
        path.write_text(content)
        path.chmod(0o600)
        with pytest.raises(UsageError, match="master key file"):
            MasterKeys.load(str(path))
    path.write_text(KEY.hex())
    path.chmod(0o604)
    with pytest.raises(UsageError, match="chmod 600"):
        MasterKeys.load(str(path))


def test_rotation_reseals_everything_and_retires_the_old_key(world: World, tmp_path: Path) -> None:
    path = str(tmp_path / "master.key")
    keys = MasterKeys.create(path)
    with world.database.write() as tx:
        region = regions.create(
            tx, name="s3", location="s3:x", options={"key": "v"}, keys=keys, now=world.now
        )
        repository = regions.repository_for(
            tx, world.account.id, region.id, keys=keys, now=world.now
        )
        hook = Webhook(
            account_id=world.account.id, url="https://x", sealed_secret="", created_at=world.now
        )
        tx.add(hook)
        tx.flush()
        hook.sealed_secret = keys.seal(b"hook", context_of(Webhook, hook.id))
    password = regions_password(world, repository, keys)

    running = MasterKeys.load(path)  # a process that was started before
    rotated = sealing.rotate(path)
    assert rotated.ids[1:] == keys.ids
    with world.database.write() as tx, pytest.raises(InUse, match="3 secrets"):
        sealing.retire(tx, path)
    with world.database.write() as tx:
        assert sealing.reseal(tx, rotated) == 3
        assert sealing.reseal(tx, rotated) == 0
    assert regions_password(world, repository, rotated) == password
    with world.database.write() as tx:
        alone = sealing.retire(tx, path)
    assert alone.ids == rotated.ids[:1]
    assert regions_password(world, repository, alone) == password
    with world.database.read() as tx:
        assert regions.options_of(tx.get_one(Region, region.id), alone) == {"key": "v"}
        secret = tx.get_one(Webhook, hook.id).sealed_secret
        assert alone.unseal(secret, context_of(Webhook, hook.id)) == b"hook"
    # It opens what the new key sealed, and seals nothing with the one that is gone.
    assert regions_password(world, repository, running) == password
    assert alone.unseal(running.seal(b"x", "c"), "c") == b"x"
    with pytest.raises(WrongMasterKey):
        regions_password(world, repository, MasterKeys([KEY]))


def test_resealing_is_all_or_nothing(world: World, tmp_path: Path) -> None:
    repository = world.add_repository()
    world.set(world.region, sealed_options=MasterKeys([OTHER]).seal(b"{}", "x"))
    before = world.again(repository).sealed_password
    ring = MasterKeys([KEY, bytes(range(32))])
    with pytest.raises(WrongMasterKey):
        world.database.transact(lambda tx: sealing.reseal(tx, ring))
    assert world.again(repository).sealed_password == before
    assert regions_password(world, repository, world.keys) == REPOSITORY_PASSWORD


def test_every_sealed_column_is_known_to_rotation() -> None:
    sealed = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if column.name.startswith("sealed_")
    }
    assert sealed == {f"{c.class_.__tablename__}.{c.key}" for c in sealing.SEALED_COLUMNS}


def regions_password(world: World, repository: Repository, keys: MasterKeys) -> str:
    with world.database.read() as tx:
        row = tx.scalars(select(Repository).where(Repository.id == repository.id)).one()
        return regions.password_of(tx, row, keys)
