"""Tokens (A2, A4): what they carry, what they never exceed, and when they end."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from control_world import World
from sqlalchemy import select, text

from holdfast.control import tokens
from holdfast.control.principal import ALL_RIGHTS, Principal, Right
from holdfast.control.tables import AuditEntry, Token
from holdfast.errors import Forbidden, NotFound, NotSignedIn, UsageError


def issue(world: World, who: Principal | None = None, **fields: Any) -> tuple[Token, str]:
    fields = {"name": "ci", "rights": ["read"], "now": world.now, **fields}
    with world.database.write() as tx:
        return tokens.issue(tx, who or world.principal(), **fields)


def enter(world: World, secret: str) -> Principal:
    with world.database.read() as tx:
        return tokens.authenticate(tx, secret, address="192.0.2.7", request_id="r7", now=world.now)


def test_a2_a_token_stands_for_its_rights(world: World) -> None:
    token, secret = issue(world, rights=["read", "create"])
    who = enter(world, secret)
    assert (who.kind, who.id, who.account_id) == ("token", token.id, world.account.id)
    assert who.rights == {Right.READ, Right.CREATE}
    assert (who.address, who.request_id, who.operator) == ("192.0.2.7", "r7", False)


def test_a2_a_secret_has_256_bits_and_is_kept_nowhere(world: World) -> None:
    token, secret = issue(world)
    assert re.fullmatch(r"hf_[A-Za-z0-9_-]{43}", secret)
    assert secret != issue(world)[1]
    with world.database.read() as tx:
        for table in ("tokens", "audit"):
            rows = tx.execute(text(f"SELECT * FROM {table}")).all()
            assert rows
            assert secret not in str(rows)
            assert secret[10:] not in str(rows)
    assert secret.startswith(token.hint.removesuffix("..."))


def test_a4_unknown_and_malformed_secrets_are_answered_alike(world: World) -> None:
    _, secret = issue(world)
    wrong = [
        "",
        "hf_",
        secret[:-1],
        secret + "A",
        secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        secret + "\n",
        "hf_" + "\ud800" * 43,
        "hs_" + secret[3:],
    ]
    messages = set()
    for each in wrong:
        with pytest.raises(NotSignedIn) as caught:
            enter(world, each)
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_a2_a_token_expires_at_its_instant(world: World) -> None:
    _, secret = issue(world, expires_at=world.now + timedelta(hours=1))
    world.advance(minutes=59)
    enter(world, secret)
    world.advance(minutes=1)
    with pytest.raises(NotSignedIn, match="expired"):
        enter(world, secret)
    with pytest.raises(UsageError, match="future"):
        issue(world, expires_at=world.now)


def test_a2_a_revoked_token_ends_at_once(world: World) -> None:
    token, secret = issue(world)
    with world.database.write() as tx:
        first = tokens.revoke(tx, world.principal(), token.id, now=world.now)
    world.advance(hours=1)
    with world.database.write() as tx:
        again = tokens.revoke(tx, world.principal(), token.id, now=world.now)
    assert first.revoked_at == again.revoked_at
    with pytest.raises(NotSignedIn, match="revoked"):
        enter(world, secret)
    with world.database.read() as tx:
        actions = tx.scalars(select(AuditEntry.action).order_by(AuditEntry.id)).all()
    assert actions == ["token.issue", "token.revoke"]


def test_a4_a_foreign_token_is_not_found(world: World) -> None:
    token, secret = issue(world)
    stranger = world.principal(world.add_account("Other"))
    for token_id in (token.id, "none"):
        with pytest.raises(NotFound, match="no token"), world.database.write() as tx:
            tokens.revoke(tx, stranger, token_id, now=world.now)
    enter(world, secret)
    with world.database.read() as tx:
        assert tokens.tokens(tx, stranger, cursor=None, limit=9).items == []
        assert [t.id for t in tokens.tokens(tx, world.principal(), cursor=None, limit=9).items] == [
            token.id
        ]


@pytest.mark.parametrize("right", [r for r in Right if r != Right.ADMINISTER])
def test_a2_nobody_issues_a_right_that_they_lack(world: World, right: Right) -> None:
    who = world.principal(rights=ALL_RIGHTS - {right})
    issue(world, who, rights=[r for r in Right if r != right])
    with pytest.raises(Forbidden, match=right):
        issue(world, who, rights=[right])


def test_a2_issuing_needs_the_right_to_administer(world: World) -> None:
    with pytest.raises(Forbidden, match="administer"):
        issue(world, world.principal(rights=ALL_RIGHTS - {Right.ADMINISTER}))
    for call in (
        lambda tx, who: tokens.tokens(tx, who, cursor=None, limit=9),
        lambda tx, who: tokens.revoke(tx, who, "x", now=world.now),
    ):
        with world.database.read() as tx, pytest.raises(Forbidden):
            call(tx, world.principal(rights={Right.READ}))


def test_a2_a_token_can_be_limited_to_kinds_and_resources(world: World) -> None:
    host = world.add_host()
    source = world.add_source(host)
    _, secret = issue(world, kinds=["path"], resources=[host.id, source.id])
    who = enter(world, secret)
    assert who.covers("path", host.id)
    assert who.covers("path", "else", source.id)
    assert not who.covers("vm", host.id)
    assert not who.covers("path", "else")


def test_a4_a_limit_to_what_belongs_to_others_tells_nothing(world: World) -> None:
    foreign = world.add_host(world.add_account("Other"))
    messages = set()
    for resource in (foreign.id, "0" * 36):
        with pytest.raises(NotFound) as caught:
            issue(world, resources=[resource])
        messages.add(caught.value.message.replace(resource, "ID"))
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        ({"kinds": ["path"], "resources": ["own"]}, True),
        ({"kinds": ["path", "vm"], "resources": ["own"]}, False),
        ({"kinds": ["path"], "resources": ["own", "other"]}, False),
        ({"kinds": ["path"]}, False),
        ({"resources": ["own"]}, False),
        ({}, False),
    ],
)
def test_a2_a_narrowed_issuer_issues_no_wider_token(
    world: World, wanted: dict[str, list[str]], allowed: bool
) -> None:
    own, other = world.add_host(), world.add_host()
    ids = {"own": own.id, "other": other.id, "path": "path", "vm": "vm"}
    who = replace(world.principal(), kinds=frozenset({"path"}), resources=frozenset({own.id}))
    fields = {name: [ids[each] for each in values] for name, values in wanted.items()}
    if allowed:
        issue(world, who, **fields)
    else:
        with pytest.raises(Forbidden, match="limited"):
            issue(world, who, **fields)
    with world.database.read() as tx, pytest.raises(Forbidden, match="whole account"):
        tokens.revoke(tx, who, "any", now=world.now)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\0"},
        {"rights": []},
        {"rights": ["everything"]},
        {"kinds": ["../x"]},
        {"resources": [str(number) for number in range(501)]},
    ],
)
def test_what_cannot_be_a_token_is_refused(world: World, fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        issue(world, **fields)


def test_a2_a_token_is_cut_to_what_its_person_still_may(world: World) -> None:
    user, who = world.add_user("a@example.org", role="admin")
    _, secret = issue(world, who, rights=list(Right))
    assert enter(world, secret).rights == ALL_RIGHTS
    with world.database.write() as tx:
        tx.execute(text("UPDATE members SET role = 'viewer'"))
    assert enter(world, secret).rights == {Right.READ}
    with world.database.write() as tx:
        tx.execute(text("DELETE FROM members"))
    with pytest.raises(NotSignedIn, match="left"):
        enter(world, secret)
    assert user.id == who.user_id


def test_a3_a_token_of_the_operators_account_is_an_operators(world: World) -> None:
    _, secret = issue(world, world.operator(), rights=["administer"])
    enter(world, secret).require_operator()
    _, weak = issue(world, world.operator(), rights=["read"])
    with pytest.raises(Forbidden):
        enter(world, weak).require_operator()


def test_a2_the_last_use_is_noted_at_most_once_a_minute(world: World) -> None:
    token, _ = issue(world)
    first = world.now
    for seconds, expected in ((0, 0), (59, 0), (1, 60), (30, 60)):
        now = world.advance(seconds=seconds)
        with world.database.write() as tx:
            tokens.note_use(tx, token.id, f"192.0.2.{seconds}", now)
        assert world.again(token).used_at == first + timedelta(seconds=expected)
    assert world.again(token).used_from == "192.0.2.1"


@pytest.mark.parametrize(
    ("fields", "rights"),
    [
        ({}, {"create", "read", "restore"}),
        ({"put_only": True}, {"create"}),
        ({"keeper": True}, {"create", "read", "restore", "delete"}),
    ],
)
def test_h2_a_hosts_credential_carries_what_the_host_may(
    world: World, fields: dict[str, Any], rights: set[str]
) -> None:
    host = world.add_host(**fields)
    with world.database.write() as tx:
        secret = tokens.issue_for_host(tx, host, now=world.now)
    who = enter(world, secret)
    assert (who.kind, who.id, who.host_id) == ("agent", host.id, host.id)
    assert who.rights == rights
    assert who.rights == world.agent(host).rights
    world.set(host, revoked_at=world.now)
    with pytest.raises(NotSignedIn, match="host was revoked"):
        enter(world, secret)


def test_h1_a_host_has_one_credential_which_is_no_token_of_the_account(world: World) -> None:
    host = world.add_host()
    with world.database.write() as tx:
        old = tokens.issue_for_host(tx, host, now=world.now)
        new = tokens.issue_for_host(tx, host, now=world.now)
    enter(world, new)
    with pytest.raises(NotSignedIn):
        enter(world, old)
    with world.database.read() as tx:
        assert tokens.tokens(tx, world.principal(), cursor=None, limit=9).items == []
        of_host = tokens.find(tx, new)
    assert of_host is not None
    with world.database.write() as tx, pytest.raises(NotFound):
        tokens.revoke(tx, world.principal(), of_host.id, now=world.now)


def test_a_gateways_credential_has_no_rights_of_its_own(world: World) -> None:
    with world.database.write() as tx:
        secret = tokens.issue_gateway(tx, world.operator_account.id, now=world.now)
    who = enter(world, secret)
    assert (who.kind, who.rights) == ("gateway", frozenset())


def test_h1_an_enrolment_token_signs_nobody_in(world: World) -> None:
    secret = tokens.new_secret()
    world.insert(
        Token(
            account_id=world.account.id,
            purpose="enrolment",
            name="x",
            secret_sha256=tokens.sha256_of(secret),
            rights=["read"],
            created_at=world.now,
        )
    )
    with pytest.raises(NotSignedIn):
        enter(world, secret)
