"""Signing in (A2, A4, A6): sessions, guessing, and what the answers do not tell."""

from __future__ import annotations

import threading

import pytest
from argon2 import PasswordHasher
from control_world import World
from sqlalchemy import func, select, text

from holdfast.control import passwords, users
from holdfast.control import sign_in as sessions
from holdfast.control.database import Database
from holdfast.control.principal import ALL_RIGHTS, Principal, Right
from holdfast.control.sign_in import authenticate_cookie, sign_in, sign_out
from holdfast.control.tables import Member, SignIn, SignInFailure, User
from holdfast.errors import Forbidden, NameTaken, NotFound, NotSignedIn, TooManyRequests, UsageError

PASSWORD = "correct horse"
HERE = "192.0.2.50"


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hashing costs has tests of its own."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(passwords, "_HASHER", cheap)
    monkeypatch.setattr(passwords, "NOBODY", cheap.hash("nobody's"))


def add_person(world: World, email: str = "a@example.org", role: str = "owner") -> Principal:
    user, who = world.add_user(email, role=role)
    world.set(user, password_hash=passwords.hash_of(PASSWORD))
    return who


def enter(
    world: World, email: str = "a@example.org", password: str = PASSWORD, address: str = HERE
) -> str:
    return sign_in(world.database, email, password, address=address, now=world.now)[1]


def visit(world: World, secret: str) -> Principal:
    with world.database.read() as tx:
        return authenticate_cookie(tx, secret, address=HERE, request_id="r", now=world.now)


def test_a2_a_person_signs_in_with_a_password_and_stays_with_a_cookie(world: World) -> None:
    person = add_person(world)
    row, secret = sign_in(world.database, " A@Example.ORG ", PASSWORD, address=HERE, now=world.now)
    assert (row.account_id, row.address) == (world.account.id, HERE)
    who = visit(world, secret)
    assert (who.kind, who.id, who.user_id) == ("user", person.id, person.id)
    assert (who.rights, who.operator, who.request_id) == (ALL_RIGHTS, False, "r")
    with world.database.read() as tx:
        assert secret not in str(tx.execute(text("SELECT * FROM sign_ins")).all())
    world.advance(days=7)
    with pytest.raises(NotSignedIn):
        visit(world, secret)


def test_a2_signing_out_ends_the_session(world: World) -> None:
    add_person(world)
    secret, other = enter(world), enter(world)
    for _ in range(2):
        with world.database.write() as tx:
            sign_out(tx, secret, now=world.now)
    with pytest.raises(NotSignedIn):
        visit(world, secret)
    visit(world, other)
    with pytest.raises(NotSignedIn):
        visit(world, "hf_" + other[3:])


def test_a2_rights_follow_the_role_at_every_request(world: World) -> None:
    add_person(world)
    secret = enter(world)
    with world.database.write() as tx:
        tx.execute(text("UPDATE members SET role = 'viewer'"))
    assert visit(world, secret).rights == {Right.READ}
    with world.database.write() as tx:
        tx.execute(text("DELETE FROM members"))
    with pytest.raises(NotSignedIn):
        visit(world, secret)


def test_a1_a_person_of_several_accounts_chooses_one(world: World) -> None:
    who = add_person(world)
    other = world.add_account("Other")
    world.insert(
        Member(
            account_id=other.id,
            user_id=who.id,
            role="viewer",
            created_at=world.advance(seconds=1),
        )
    )
    assert visit(world, enter(world)).account_id == world.account.id
    _, secret = sign_in(
        world.database,
        "a@example.org",
        PASSWORD,
        account_id=other.id,
        address=HERE,
        now=world.now,
    )
    there = visit(world, secret)
    assert there.account_id == other.id
    assert there.rights == {Right.READ}
    messages = set()
    for account_id in (world.operator_account.id, "none"):
        with pytest.raises(NotSignedIn) as caught:
            sign_in(
                world.database,
                "a@example.org",
                PASSWORD,
                account_id=account_id,
                address=HERE,
                now=world.now,
            )
        messages.add(caught.value.message)
    assert len(messages) == 1


def failures(world: World, email: str, count: int, address: str = HERE) -> list[str]:
    outcomes = []
    for _ in range(count):
        try:
            enter(world, email, "wrong password", address)
        except NotSignedIn as error:
            outcomes.append(error.message)
        except TooManyRequests as error:
            outcomes.append(f"{error.message} {error.retry_after_seconds}")
    return outcomes


def test_a4_a6_nobody_and_somebody_are_answered_alike(world: World) -> None:
    add_person(world)
    known = failures(world, "a@example.org", 7, "192.0.2.1")
    unknown = failures(world, "nobody@example.org", 7, "192.0.2.2")
    assert known == unknown
    assert len(set(known[:5])) == 1
    assert "try again in 1 s" in known[5]


def test_a6_the_pause_grows_survives_a_restart_and_ends(world: World) -> None:
    add_person(world)
    failures(world, "a@example.org", sessions.FREE_FOR_EMAIL)
    pauses = []
    for _ in range(4):
        restarted = Database(world.database.url)
        try:
            with pytest.raises(TooManyRequests) as caught:
                sign_in(restarted, "a@example.org", PASSWORD, address=HERE, now=world.now)
        finally:
            restarted.close()
        pauses.append(caught.value.retry_after_seconds)
        world.advance(seconds=pauses[-1])
        failures(world, "a@example.org", 1)
    assert pauses == [1, 2, 4, 8]
    world.advance(seconds=16)
    enter(world)
    assert set(failures(world, "a@example.org", 4)) == {
        "The e-mail address and the password do not belong together."
    }


def test_a6_a_pause_never_exceeds_its_limit_and_failures_are_forgotten(world: World) -> None:
    add_person(world)
    failures(world, "a@example.org", 1)
    with world.database.write() as tx:
        tx.execute(text("UPDATE sign_in_failures SET failures = 1000 WHERE subject LIKE 'email%'"))
    failures(world, "a@example.org", 1)
    with pytest.raises(TooManyRequests) as caught:
        enter(world)
    assert caught.value.retry_after_seconds == sessions.LONGEST_PAUSE.total_seconds()
    world.advance(hours=25)
    assert len(failures(world, "a@example.org", 4)) == 4
    enter(world)


def test_a6_an_address_that_tries_many_people_is_slowed_down(world: World) -> None:
    """Also when it knows one password: its own success does not wipe out the rest."""
    add_person(world)
    for number in range(sessions.FREE_FOR_ADDRESS - 1):
        failures(world, f"{number}@example.org", 1, "2001:db8::1")
    enter(world, address="2001:db8::99")
    failures(world, "x@example.org", 1, "2001:db8::2")
    with pytest.raises(TooManyRequests):
        enter(world, address="2001:db8::3")
    enter(world, address="2001:db8:0:1::3")
    enter(world, address="not an address")


def test_a6_guessing_many_at_once_is_no_way_around(world: World) -> None:
    """What counts is that an attempt began, so later ones pause before the first has ended."""
    add_person(world)
    outcomes: list[str] = []

    def guess() -> None:
        outcomes.extend(failures(world, "a@example.org", 1))

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tried = [each for each in outcomes if "do not belong" in each]
    assert len(outcomes) == 12
    assert len(tried) == sessions.FREE_FOR_EMAIL


def test_old_sessions_and_failures_are_dropped(world: World) -> None:
    add_person(world)
    enter(world)
    failures(world, "b@example.org", 1)
    world.advance(days=3)
    secret = enter(world)
    world.advance(days=5)
    with world.database.write() as tx:
        sessions.forget_old(tx, now=world.now)
    with world.database.read() as tx:
        assert tx.scalar(select(func.count()).select_from(SignInFailure)) == 0
        assert tx.scalar(select(func.count()).select_from(SignIn)) == 1
    visit(world, secret)


def test_a2_a_person_is_made_once_in_lower_case(world: World) -> None:
    with world.database.write() as tx:
        user = users.create_user(tx, " New@Example.ORG", PASSWORD, now=world.now)
    assert user.email == "new@example.org"
    with pytest.raises(NameTaken), world.database.write() as tx:
        users.create_user(tx, "NEW@example.org", PASSWORD, now=world.now)
    for email, password in (
        ("nobody", PASSWORD),
        ("a@b@c", PASSWORD),
        ("a b@c", PASSWORD),
        ("a\0@c", PASSWORD),
        ("@c", PASSWORD),
        ("x" * 250 + "@c.de", PASSWORD),
        ("b@example.org", "short"),
        ("b@example.org", "x" * 1001),
    ):
        with pytest.raises(UsageError), world.database.write() as tx:
            users.create_user(tx, email, password, now=world.now)


def test_a2_changing_the_password_ends_every_session(world: World) -> None:
    who = add_person(world)
    secret = enter(world)
    with world.database.write() as tx, pytest.raises(Forbidden, match="old password"):
        users.change_password(tx, who, "wrong", "a new password", now=world.now)
    with world.database.write() as tx:
        users.change_password(tx, who, PASSWORD, "a new password", now=world.now)
    with pytest.raises(NotSignedIn):
        visit(world, secret)
    with pytest.raises(NotSignedIn):
        enter(world)
    enter(world, password="a new password")


def test_a2_a_token_changes_no_password(world: World) -> None:
    who = add_person(world)
    token = world.principal(kind="token", id="t", user_id=who.user_id)
    with world.database.write() as tx, pytest.raises(Forbidden):
        users.change_password(tx, token, PASSWORD, "a new password", now=world.now)


def test_a3_an_operator_resets_a_lost_password(world: World) -> None:
    add_person(world)
    for who in (world.principal(), world.principal(world.operator_account, {Right.READ})):
        with world.database.write() as tx, pytest.raises(Forbidden):
            users.reset_password(tx, who, "a@example.org", "a new password", now=world.now)
    operator = world.operator()
    with world.database.write() as tx:
        users.reset_password(tx, operator, "A@example.org", "a new password", now=world.now)
        with pytest.raises(NotFound):
            users.reset_password(tx, operator, "b@example.org", "a new password", now=world.now)
    enter(world, password="a new password")


def test_a_password_that_changes_while_it_is_checked_counts_as_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = add_person(world)
    matches = passwords.matches

    def slow(password: str, kept: str | None) -> bool:
        found = matches(password, kept)
        world.set(world.again(User(id=who.id)), password_hash=passwords.hash_of("another one"))
        return found

    monkeypatch.setattr(passwords, "matches", slow)
    with pytest.raises(NotSignedIn, match="changed just now"):
        enter(world)
