"""Members and roles (A1, A4): who makes whom what, and the owner who always stays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import members, passwords, sign_in, tokens
from holdfast.control.database import Tx
from holdfast.control.principal import Principal, system
from holdfast.control.tables import AuditEntry, Member, Token, User
from holdfast.errors import Forbidden, InUse, NameTaken, NotFound, NotSignedIn, UsageError


def add(world: World, who: Principal, email: str, role: str = "member", **fields: Any) -> str:
    with world.database.write() as tx:
        return members.add(tx, who, email=email, role=role, now=world.now, **fields).user_id


def set_role(world: World, who: Principal, user_id: str, role: str) -> None:
    world.database.transact(lambda tx: members.set_role(tx, who, user_id, role, now=world.now))


def remove(world: World, who: Principal, user_id: str) -> None:
    world.database.transact(lambda tx: members.remove(tx, who, user_id, now=world.now))


def roles(world: World) -> dict[str, str]:
    with world.database.read() as tx:
        return {each.email: each.role for each in members.members(tx, world.principal())}


def test_a1_members_come_change_and_go_and_each_step_is_audited(world: World) -> None:
    _, owner = world.add_user("owner@example.org")
    world.advance(seconds=1)
    person = add(world, owner, "New@example.org", password="a password")
    assert roles(world) == {"owner@example.org": "owner", "new@example.org": "member"}
    set_role(world, owner, person, "admin")
    set_role(world, owner, person, "admin")
    assert roles(world)["new@example.org"] == "admin"
    remove(world, owner, person)
    assert roles(world) == {"owner@example.org": "owner"}
    with world.database.read() as tx:
        log = tx.scalars(select(AuditEntry).order_by(AuditEntry.id)).all()
    assert [(each.action, each.before, each.after) for each in log] == [
        ("member.add", None, {"email": "new@example.org", "role": "member"}),
        ("member.edit", {"role": "member"}, {"role": "admin"}),
        ("member.remove", {"email": "new@example.org", "role": "admin"}, None),
    ]


def test_a1_the_last_owner_stays(world: World) -> None:
    first, owner = world.add_user("owner@example.org")
    with pytest.raises(InUse, match="last owner"):
        set_role(world, owner, first.id, "admin")
    with pytest.raises(InUse, match="last owner"):
        remove(world, owner, first.id)
    second = add(world, owner, "second@example.org", "owner")
    set_role(world, owner, first.id, "viewer")
    assert roles(world) == {"owner@example.org": "viewer", "second@example.org": "owner"}
    with pytest.raises(InUse):
        remove(world, system(world.account.id), second)


def test_a1_two_owners_cannot_unmake_each_other_at_once(world: World) -> None:
    (one, one_asks), (two, two_asks) = world.add_user("1@x.org"), world.add_user("2@x.org")
    together = threading.Barrier(2, timeout=60)
    outcomes: list[str] = []

    def demote(who: Principal, whom: User) -> None:
        together.wait()
        try:
            set_role(world, who, whom.id, "viewer")
            outcomes.append("done")
        except (InUse, Forbidden) as error:
            outcomes.append(error.code)

    threads = [
        threading.Thread(target=demote, args=pair) for pair in ((one_asks, two), (two_asks, one))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(roles(world).values()) == ["owner", "viewer"]
    assert "done" in outcomes
    assert len(outcomes) == 2


def test_a1_only_owners_make_and_unmake_owners(world: World) -> None:
    owner_row, owner = world.add_user("owner@example.org")
    _, admin = world.add_user("admin@example.org", role="admin")
    viewer = add(world, admin, "viewer@example.org", "viewer")
    token = world.principal(kind="token", id="t", user_id=admin.user_id)
    for who in (admin, token, world.principal()):
        for act in (
            lambda who=who: add(world, who, "x@example.org", "owner"),
            lambda who=who: set_role(world, who, viewer, "owner"),
            lambda who=who: set_role(world, who, owner_row.id, "viewer"),
            lambda who=who: remove(world, who, owner_row.id),
        ):
            with pytest.raises(Forbidden, match="Only an owner"):
                act()
    set_role(world, admin, viewer, "member")
    set_role(world, owner, viewer, "owner")


Act = Callable[[World, Principal, str], object]
ACTS: dict[str, Act] = {
    "add": lambda world, who, _: add(world, who, "x@example.org"),
    "set_role": lambda world, who, user_id: set_role(world, who, user_id, "viewer"),
    "remove": remove,
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a2_changing_members_needs_the_right_for_the_whole_account(world: World, act: Act) -> None:
    world.add_user("owner@example.org")
    _, member = world.add_user("member@example.org", role="member")
    narrowed = world.principal(kinds=frozenset({"path"}))
    before = roles(world)
    for who in (member, narrowed):
        with pytest.raises(Forbidden):
            act(world, who, str(member.user_id))
    assert roles(world) == before


def test_a4_members_of_another_account_are_not_found(world: World) -> None:
    other = world.add_account("Other")
    stranger, _ = world.add_user("stranger@example.org", account=other)
    _, owner = world.add_user("owner@example.org")
    assert list(roles(world)) == ["owner@example.org"]
    messages = set()
    for user_id in (stranger.id, "none"):
        for act in (ACTS["set_role"], ACTS["remove"]):
            with pytest.raises(NotFound) as caught:
                act(world, owner, user_id)
            messages.add(caught.value.message.replace(user_id, "ID"))
    assert len(messages) == 1


def test_a4_adding_does_not_tell_who_is_known_and_takes_nobodys_password(world: World) -> None:
    other = world.add_account("Other")
    known, _ = world.add_user("known@example.org", account=other)
    world.set(known, password_hash=passwords.hash_of("their own password"))
    _, owner = world.add_user("owner@example.org")
    answers = []
    for email in ("known@example.org", "unknown@example.org"):
        with world.database.write() as tx:
            person = members.add(
                tx, owner, email=email, role="viewer", password="their choice", now=world.now
            )
        answers.append((person.role, person.created_at))
    assert answers[0] == answers[1]
    assert passwords.matches("their own password", world.again(known).password_hash)
    with pytest.raises(NameTaken):
        add(world, owner, "known@example.org")


def test_a1_somebody_without_a_password_cannot_sign_in(world: World) -> None:
    _, owner = world.add_user("owner@example.org")
    add(world, owner, "new@example.org")
    for password in ("", "!", passwords.UNUSABLE):
        with pytest.raises(NotSignedIn):
            sign_in.sign_in(world.database, "new@example.org", password, address="a", now=world.now)


def test_a2_with_the_membership_end_its_sessions_and_tokens(world: World) -> None:
    _, owner = world.add_user("owner@example.org")
    person = add(world, owner, "new@example.org", "admin", password="a password")
    _, cookie = sign_in.sign_in(
        world.database, "new@example.org", "a password", address="a", now=world.now
    )

    def of_cookie(tx: Tx) -> Principal:
        return sign_in.authenticate_cookie(tx, cookie, address="", request_id="", now=world.now)

    with world.database.write() as tx:
        token, secret = tokens.issue(tx, of_cookie(tx), name="x", rights=["read"], now=world.now)
    remove(world, owner, person)
    add(world, owner, "new@example.org", "admin")
    with world.database.read() as tx:
        assert tx.get_one(Token, token.id).revoked_at == world.now
        with pytest.raises(NotSignedIn):
            of_cookie(tx)
        with pytest.raises(NotSignedIn):
            tokens.authenticate(tx, secret, address="", request_id="", now=world.now)


@pytest.mark.parametrize(
    "fields", [{"role": "king"}, {"email": "x"}, {"password": "short"}], ids=str
)
def test_what_cannot_be_a_member_is_refused(world: World, fields: dict[str, str]) -> None:
    _, owner = world.add_user("owner@example.org")
    with pytest.raises(UsageError):
        add(world, owner, **({"email": "x@example.org"} | fields))
    with world.database.read() as tx:
        assert len(tx.scalars(select(Member)).all()) == 1
