"""Idempotency keys (I1): the same answer again, and one effect only."""

from __future__ import annotations

import threading

import pytest
from control_world import World
from sqlalchemy import func, select

from holdfast.control import idempotency
from holdfast.control.database import Tx
from holdfast.control.tables import IdempotencyKey, User
from holdfast.errors import Conflict, KeyReused, UsageError

REQUEST = "a" * 64


def keep(world: World, key: str = "k") -> None:
    with world.database.write() as tx:
        idempotency.keep(tx, world.account.id, key, REQUEST, 201, {"id": 1}, "/x/1", now=world.now)


def test_i1_the_answer_is_recalled_by_its_account_alone(world: World) -> None:
    keep(world)
    with world.database.read() as tx:
        found = idempotency.recall(tx, world.account.id, "k", REQUEST)
        assert found is not None
        assert (found.status, found.body, found.location) == (201, {"id": 1}, "/x/1")
        assert idempotency.recall(tx, world.operator_account.id, "k", "b" * 64) is None


def test_i1_a_key_with_another_request_is_refused(world: World) -> None:
    keep(world)
    with world.database.read() as tx, pytest.raises(KeyReused, match="new"):
        idempotency.recall(tx, world.account.id, "k", "b" * 64)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\0", "ä", "a\nb"])
def test_a_key_that_cannot_be_one_is_refused(world: World, key: str) -> None:
    with world.database.read() as tx, pytest.raises(UsageError, match="idempotency key"):
        idempotency.recall(tx, world.account.id, key, REQUEST)


def test_i1_of_two_requests_at_once_one_has_an_effect(world: World) -> None:
    """Both look before either has an answer; the second one's effect is undone."""
    both_looked = threading.Barrier(2, timeout=60)
    outcomes: list[str] = []

    def request(number: int) -> None:
        def act(tx: Tx) -> None:
            tx.add(User(email=f"{number}@x", password_hash="!", created_at=world.now))
            idempotency.keep(tx, world.account.id, "k", REQUEST, 201, None, None, now=world.now)

        with world.database.read() as tx:
            assert idempotency.recall(tx, world.account.id, "k", REQUEST) is None
        both_looked.wait()
        try:
            world.database.transact(act)
            outcomes.append("done")
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=request, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["conflict", "done"]
    with world.database.read() as tx:
        assert tx.scalar(select(func.count()).select_from(User)) == 1


def test_answers_are_forgotten_after_a_day(world: World) -> None:
    keep(world, "old")
    world.advance(hours=23)
    keep(world, "new")
    with world.database.write() as tx:
        assert idempotency.forget_old(tx, now=world.now) == 0
    world.advance(hours=2)
    with world.database.write() as tx:
        assert idempotency.forget_old(tx, now=world.now) == 1
        assert tx.scalars(select(IdempotencyKey.key)).all() == ["new"]
