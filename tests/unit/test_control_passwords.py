"""Passwords (A2, A4): what is kept of them, and that hashing costs the same for everybody."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import pytest
from argon2 import PasswordHasher, extract_parameters
from control_world import World
from sqlalchemy import event

from holdfast.control import passwords
from holdfast.control.sign_in import sign_in
from holdfast.errors import NotSignedIn

PASSWORD = "correct horse"
HASH = passwords.hash_of(PASSWORD)


class Counting(PasswordHasher):
    """Counts what it compares with, by the parameters that make the costs."""

    def __init__(self) -> None:
        super().__init__()
        self.compared: list[str] = []

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        extract_parameters(text := str(hash))  # one that is none would cost nothing
        self.compared.append(text.rpartition("$")[0].rpartition("$")[0])
        return super().verify(hash, password)


def test_a4_somebody_who_does_not_exist_costs_as_much(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same hashing and as many statements, so that neither time nor load tells."""
    user, _ = world.add_user("a@example.org")
    world.set(user, password_hash=HASH)
    world.add_user("unusable@example.org", role="viewer")
    hasher = Counting()
    monkeypatch.setattr(passwords, "_HASHER", hasher)
    statements: dict[str, int] = Counter()
    email = ""

    def count(*_: Any) -> None:
        statements[email] += 1

    event.listen(world.database.engine, "before_cursor_execute", count)
    emails = ("a@example.org", "nobody@example.org", "unusable@example.org", "no address")
    for number, email in enumerate(emails):
        with pytest.raises(NotSignedIn):
            sign_in(world.database, email, "wrong", address=f"192.0.2.{number}", now=world.now)
    event.remove(world.database.engine, "before_cursor_execute", count)
    assert hasher.compared == [HASH.rpartition("$")[0].rpartition("$")[0]] * 4
    assert len(set(statements.values())) == 1, statements


def test_a2_the_hash_is_argon2id_and_that_of_nobody_costs_as_much() -> None:
    assert HASH.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert not passwords.is_outdated(passwords.NOBODY)
    assert passwords.matches(PASSWORD, HASH)
    for password, kept in (
        ("other", HASH),
        (PASSWORD, None),
        (PASSWORD, passwords.UNUSABLE),
        (PASSWORD, "plain"),
        ("", HASH),
        ("x" * 10_000, HASH),
    ):
        assert not passwords.matches(password, kept)


def test_a2_a_weaker_hash_is_renewed_at_the_next_sign_in(world: World) -> None:
    user, _ = world.add_user("a@example.org")
    world.set(user, password_hash=PasswordHasher(time_cost=1, memory_cost=8192).hash(PASSWORD))
    sign_in(world.database, "a@example.org", PASSWORD, address="::", now=world.now)
    renewed = world.again(user).password_hash
    assert not passwords.is_outdated(renewed)
    assert passwords.matches(PASSWORD, renewed)
