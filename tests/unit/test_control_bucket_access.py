"""What gateways are told: who may have signed, and what somebody may do with a bucket."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from control_shelf import MB, Shelf
from control_world import REPOSITORY_PASSWORD, World
from sqlalchemy import text

from holdfast.control import bucket_access, hosts, sealing, tokens
from holdfast.control.bucket_access import OpenedBucket
from holdfast.control.principal import Principal, Right
from holdfast.control.sealing import MasterKeys
from holdfast.control.tables import Host, Member, SignIn, Token
from holdfast.errors import (
    Forbidden,
    NoSuchBucket,
    NotSignedIn,
    UsageError,
    WrongMasterKey,
)

TODAY = "20261102"
REGION = "us-east-1"


def issue(world: World, who: Principal | None = None, **fields: Any) -> tuple[Token, str]:
    fields = {"name": "s3", "rights": ["read"], "keys": world.keys, **fields}
    with world.database.write() as tx:
        return tokens.issue(tx, who or world.principal(), now=world.now, **fields)


def candidates(
    world: World, access_key: str, date: str = TODAY, region: str = REGION
) -> dict[str, bytes]:
    with world.database.read() as tx:
        found = bucket_access.signing_keys(
            tx, access_key, date, region, keys=world.keys, now=world.now
        )
    assert len(found) == len(dict(found))
    return dict(found)


def caller(world: World, **shown: Any) -> Principal:
    with world.database.read() as tx:
        return bucket_access.caller(tx, address="192.0.2.9", request_id="r", now=world.now, **shown)


def opened(world: World, who: Principal, name: str = "results") -> OpenedBucket:
    with world.database.read() as tx:
        return bucket_access.opened(tx, who, name, keys=world.keys)


# Keys


def test_the_key_makes_the_signature_of_a_genuine_client(world: World) -> None:
    token, secret = issue(world)
    client = SigV4Auth(Credentials(token.id, secret), "s3", REGION)
    request = AWSRequest("GET", "https://example.org/s3/b/k")
    request.context["timestamp"] = f"{TODAY}T100000Z"
    request.headers["X-Amz-Date"] = request.context["timestamp"]
    to_sign = client.string_to_sign(request, client.canonical_request(request))
    key = candidates(world, token.id)[token.id]
    ours = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    assert ours == client.signature(to_sign, request)


def test_a_key_is_of_one_day_and_one_region(world: World) -> None:
    token, _ = issue(world)
    keys = {
        candidates(world, token.id, date, region)[token.id]
        for date in (TODAY, "20261101")
        for region in (REGION, "eu-central-1")
    }
    assert len(keys) == 4


@pytest.mark.parametrize("date", ["20261104", "20261023", "20271102", "2026110", "20261302", ""])
def test_there_is_no_key_for_days_on_which_no_request_was_signed(world: World, date: str) -> None:
    """Or whoever has a gateway's credential could collect keys for the years to come."""
    token, _ = issue(world)
    assert candidates(world, token.id, date) == {}


@pytest.mark.parametrize("date", ["20261103", "20261026"])
def test_there_is_one_for_tomorrow_elsewhere_and_for_a_signed_address(
    world: World, date: str
) -> None:
    token, _ = issue(world)
    assert candidates(world, token.id, date)


def test_only_live_access_tokens_sign(world: World) -> None:
    user, owner = world.add_user("owner@example.org")
    live, _ = issue(world, owner)
    unsealed, _ = issue(world, owner, keys=None)
    expired, _ = issue(world, owner, expires_at=world.now + timedelta(seconds=1))
    revoked, _ = issue(world, owner)
    host = world.add_host()
    with world.database.write() as tx:
        tokens.revoke(tx, owner, revoked.id, now=world.now)
        tokens.issue_for_host(tx, host, now=world.now)
        tokens.issue_gateway(tx, world.operator_account.id, now=world.now)
        invitation, _ = hosts.invite(tx, owner, now=world.now)
    others = [
        *(each.id for each in (unsealed, expired, revoked, invitation)),
        *_tokens_of(world, "agent"),
        *_tokens_of(world, "gateway"),
    ]
    # Even if such a token had been sealed.
    for each in others:
        sealed = world.keys.seal(b"x", f"tokens:{each}")
        if each not in (unsealed.id, revoked.id):
            _set(world, each, sealed)
    world.advance(seconds=1)
    assert set(candidates(world, live.id)) == {live.id}
    for each in others:
        assert candidates(world, each) == {}
    assert set(candidates(world, "Owner@Example.org")) == {live.id}
    with world.database.write() as tx:
        tx.delete(tx.get_one(Member, (world.account.id, user.id)))
    assert candidates(world, live.id) == {}
    assert candidates(world, "owner@example.org") == {}


def _tokens_of(world: World, purpose: str) -> list[str]:
    with world.database.read() as tx:
        found = tx.execute(text(f"SELECT id FROM tokens WHERE purpose = '{purpose}'"))
        return list(found.scalars())


def _set(world: World, token_id: str, sealed: str) -> None:
    with world.database.write() as tx:
        tx.get_one(Token, token_id).sealed_secret = sealed


def test_an_address_stands_for_a_persons_tokens_in_all_accounts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, owner = world.add_user("owner@example.org")
    _, colleague = world.add_user("colleague@example.org")
    other = world.add_account("Other")
    world.insert(Member(account_id=other.id, user_id=user.id, role="viewer", created_at=world.now))
    mine = []
    for who in (owner, replace(owner, account_id=other.id), owner):
        world.advance(seconds=1)
        mine.append(issue(world, who)[0].id)
    issue(world, colleague)
    assert set(candidates(world, "owner@example.org")) == set(mine)
    monkeypatch.setattr(bucket_access, "MAX_CANDIDATES", 2)
    assert set(candidates(world, "owner@example.org")) == set(mine[1:])


@pytest.mark.parametrize(
    "access_key",
    ["", "nobody", "nobody@example.org", "AKIAIOSFODNN7EXAMPLE", "a\0@b", "@",
     "00000000-0000-4000-8000-000000000000"],
)  # fmt: skip
def test_nobody_is_known_by_that_key(world: World, access_key: str) -> None:
    assert candidates(world, access_key) == {}


# What is kept of the secret


def test_the_database_alone_holds_nothing_that_signs(world: World) -> None:
    token, secret = issue(world)
    with world.database.read() as tx:
        rows = str(tx.execute(text("SELECT * FROM tokens")).all())
    assert secret not in rows
    assert (token.sealed_secret or "") in rows
    with pytest.raises(WrongMasterKey), world.database.read() as tx:
        bucket_access.signing_keys(
            tx, token.id, TODAY, REGION, keys=MasterKeys([b"x" * 32]), now=world.now
        )


def test_a_sealed_secret_opens_in_its_own_row_only(world: World) -> None:
    one, _ = issue(world)
    two, _ = issue(world)
    _set(world, two.id, one.sealed_secret or "")
    with pytest.raises(WrongMasterKey, match="moved"):
        candidates(world, two.id)


def test_a_revoked_token_is_no_longer_kept(world: World) -> None:
    token, _ = issue(world)
    with world.database.write() as tx:
        tokens.revoke(tx, world.principal(), token.id, now=world.now)
    assert world.again(token).sealed_secret is None


def test_tokens_are_sealed_again_with_a_new_master_key(world: World) -> None:
    token, _ = issue(world)
    before = candidates(world, token.id)
    both = MasterKeys([b"n" * 32, bytes(range(32))])
    with world.database.write() as tx:
        assert sealing.reseal(tx, both) == 1
    world.keys = MasterKeys([b"n" * 32])
    assert candidates(world, token.id) == before


# Callers


def test_callers_by_what_they_showed_and_by_what_they_signed(world: World) -> None:
    token, secret = issue(world, rights=["read", "create"])
    assert caller(world, credential=secret) == caller(world, token_id=token.id)
    who = caller(world, token_id=token.id)
    assert (who.kind, who.id, who.address) == ("token", token.id, "192.0.2.9")
    assert who.rights == {Right.READ, Right.CREATE}
    for shown in ({}, {"credential": secret, "token_id": token.id}):
        with pytest.raises(UsageError):
            caller(world, **shown)


def test_a_signature_stands_for_no_more_than_the_token_does_now(world: World) -> None:
    user, owner = world.add_user("owner@example.org")
    token, secret = issue(world, owner, rights=["read", "delete"])
    with world.database.write() as tx:
        tx.get_one(Member, (world.account.id, user.id)).role = "viewer"
    assert caller(world, token_id=token.id).rights == {Right.READ}
    with world.database.write() as tx:
        tokens.revoke(tx, world.principal(), token.id, now=world.now)
    for shown in ({"token_id": token.id}, {"credential": secret}):
        with pytest.raises(NotSignedIn, match="revoked"):
            caller(world, **shown)


def test_tokens_of_other_purposes_sign_nothing(world: World) -> None:
    host = world.add_host()
    with world.database.write() as tx:
        tokens.issue_for_host(tx, host, now=world.now)
        gateway = tokens.issue_gateway(tx, world.operator_account.id, now=world.now)
    for each in [*_tokens_of(world, "agent"), *_tokens_of(world, "gateway"), "nothing"]:
        with pytest.raises(NotSignedIn):
            caller(world, token_id=each)
    with pytest.raises(Forbidden):
        caller(world, credential=gateway)


def test_a_browser_and_a_host_are_callers_too(world: World) -> None:
    user, _ = world.add_user("owner@example.org")
    secret = f"hs_{'a' * 43}"
    world.insert(
        SignIn(
            account_id=world.account.id,
            user_id=user.id,
            secret_sha256=tokens.sha256_of(secret),
            created_at=world.now,
            expires_at=world.now + timedelta(hours=1),
        )
    )
    assert caller(world, credential=secret).kind == "user"
    host = world.add_host()
    with world.database.write() as tx:
        agent = tokens.issue_for_host(tx, tx.get_one(Host, host.id), now=world.now)
    assert caller(world, credential=agent).host_id == host.id


# Grants


def test_what_somebody_may_do_and_where_it_lies(world: World) -> None:
    repository = world.add_repository()
    bucket = Shelf(world).bucket()
    found = opened(world, world.principal())
    assert found.bucket.id == bucket.id
    grant = found.grant
    assert grant.rights == {"list", "read", "append", "delete"}
    assert (grant.account_id, grant.repository_id) == (world.account.id, repository.id)
    assert (grant.location, grant.password) == ("/srv/holdfast", REPOSITORY_PASSWORD)
    assert (grant.refusal, found.views) == (None, [])
    assert opened(world, world.principal(rights=["read"])).grant.rights == {"list"}
    with pytest.raises(Forbidden, match="read"):
        opened(world, world.principal(rights=["create", "restore"]))
    with pytest.raises(NoSuchBucket):
        opened(world, world.principal(world.add_account("Other")))


def test_a_host_reads(world: World) -> None:
    Shelf(world).bucket()
    assert opened(world, world.agent(world.add_host(keeper=True))).grant.rights == {"list", "read"}
    with pytest.raises(Forbidden):
        opened(world, world.agent(world.add_host(put_only=True)))


def test_it_is_told_ahead_that_nothing_can_be_added(world: World) -> None:
    shelf = Shelf(world)
    shelf.put(shelf.bucket(), "a", 10 * MB)

    def refusal(who: Principal | None = None) -> str | None:
        found = opened(world, who or world.principal()).grant.refusal
        return None if found is None else found.code

    assert refusal() is None
    world.set(world.account, quota_stored_bytes=10 * MB)
    assert refusal() == "quota_exceeded"
    world.set(world.account, prepaid=True)
    assert refusal() == "credit_exhausted"
    assert refusal(world.principal(rights=["read"])) is None
