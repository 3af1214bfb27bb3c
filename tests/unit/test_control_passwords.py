"""Passwords (A2, A4): what is kept of them, and that hashing costs the same for everybody."""

from __future__ import annotations

import time

import pytest
from argon2 import PasswordHasher
from control_world import World

from holdfast.control import passwords
from holdfast.control.sign_in import sign_in
from holdfast.errors import NotSignedIn

PASSWORD = "correct horse"
HASH = passwords.hash_of(PASSWORD)


def test_a4_somebody_who_does_not_exist_costs_the_same_time(world: World) -> None:
    user, _ = world.add_user("a@example.org")
    world.set(user, password_hash=HASH)
    world.add_user("unusable@example.org", role="viewer")
    spans: dict[str, list[float]] = {}
    for number in range(3):
        for email in ("a@example.org", "nobody@example.org", "unusable@example.org", "no address"):
            began = time.process_time()
            with pytest.raises(NotSignedIn):
                sign_in(world.database, email, "wrong", address=f"::{number}", now=world.now)
            spans.setdefault(email, []).append(time.process_time() - began)
    best = [min(each) for each in spans.values()]
    # In processor time, which a busy machine does not change; without a hash, a twentieth.
    assert max(best) < 2.5 * min(best)


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
