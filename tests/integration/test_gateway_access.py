"""What a gateway is told about a credential that it was given."""

from __future__ import annotations

from typing import Any

import pytest
from api_world import Api
from control_world import REPOSITORY_PASSWORD, World

from holdfast.control import gateway_access, regions, tokens
from holdfast.control.gateway_access import GatewayGrant
from holdfast.control.tables import Account, Host, Member, Repository, SignIn, Snapshot
from holdfast.errors import Forbidden, NotFound, NotReady, NotSignedIn, UsageError

OPTIONS = {"aws_secret_access_key": "the store's own"}


class Place:
    """A repository with one snapshot, and ways to ask about it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.host = world.add_host()
        self.source = world.add_source(self.host)
        self.repository = world.add_repository()
        self.snapshot = world.add_snapshot(self.source, self.repository, name="before upgrade")

    def token(self, *rights: str, account: Account | None = None, **narrowing: Any) -> str:
        with self.world.database.write() as tx:
            who = self.world.principal(account)
            return tokens.issue(tx, who, name="t", rights=rights, now=self.world.now, **narrowing)[
                1
            ]

    def agent(self, host: Host) -> str:
        with self.world.database.write() as tx:
            return tokens.issue_for_host(tx, host, now=self.world.now)

    def resolve(
        self,
        credential: str,
        *,
        repository: Repository | None = None,
        snapshot: Snapshot | None = None,
    ) -> GatewayGrant:
        if snapshot is None and repository is None:
            repository = self.repository
        with self.world.database.read() as tx:
            return gateway_access.resolve(
                tx,
                credential,
                repository_id=repository.id if repository else None,
                snapshot_id=snapshot.id if snapshot else None,
                address="192.0.2.9",
                request_id="request",
                keys=self.world.keys,
                now=self.world.now,
            )


@pytest.fixture
def place(world: World) -> Place:
    return Place(world)


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        (["create"], {"append"}),
        (["restore"], {"read"}),
        (["delete"], {"delete"}),
        (["read", "administer"], set()),
        (["create", "restore", "delete"], {"append", "read", "delete"}),
    ],
)
def test_rights_of_a_token_are_rights_to_a_repository(
    place: Place, rights: list[str], expected: set[str]
) -> None:
    """A2: rights are separate."""
    grant = place.resolve(place.token(*rights))
    assert grant.rights == expected
    assert grant.put_only == (expected == {"append"})
    assert (grant.account_id, grant.repository_id) == (
        place.world.account.id,
        place.repository.id,
    )
    assert (grant.location, grant.options) == ("/srv/holdfast", {})
    assert grant.password is None, "restic decodes for itself"


def test_the_stores_options_are_told_to_gateways(place: Place) -> None:
    world = place.world
    with world.database.write() as tx:
        operator = world.operator()
        regions.set_options(tx, operator, world.region.id, OPTIONS, keys=world.keys, now=world.now)
    assert place.resolve(place.token("restore")).options == OPTIONS


def test_a_snapshot_is_told_with_what_decodes_it_to_those_who_may_read(place: Place) -> None:
    """B4: only its account can reach it."""
    grant = place.resolve(place.token("restore"), snapshot=place.snapshot)
    assert grant.password == REPOSITORY_PASSWORD
    assert grant.manifest_id == place.snapshot.manifest_id
    assert grant.captured_path == "/root/models"
    assert (grant.snapshot_name, grant.snapshot_status) == ("before upgrade", "COMPLETED")

    for rights in (["create"], ["read", "delete", "administer"]):
        assert place.resolve(place.token(*rights), snapshot=place.snapshot).password is None


def test_what_belongs_to_others_is_not_found(place: Place) -> None:
    """A4: no account reaches another's."""
    world = place.world
    other = world.add_account("Other")
    credentials = [
        place.token("create", "restore", "delete", account=other),
        place.token("restore", account=world.operator_account),
        place.agent(world.add_host(other)),
    ]
    for credential in credentials:
        with pytest.raises(NotFound):
            place.resolve(credential)
        with pytest.raises(NotFound):
            place.resolve(credential, snapshot=place.snapshot)


def test_a_put_only_agent_can_add_and_nothing_else(place: Place) -> None:
    """H2: put-only."""
    grant = place.resolve(place.agent(place.world.add_host(put_only=True)))
    assert grant.rights == {"append"}
    assert grant.put_only


def test_an_agent_reads_what_its_account_stores_and_snapshots_of_its_own_host(
    place: Place,
) -> None:
    own, other = place.agent(place.host), place.agent(place.world.add_host())
    for credential in (own, other):
        assert place.resolve(credential).rights == {"append", "read"}
    assert place.resolve(own, snapshot=place.snapshot).password == REPOSITORY_PASSWORD
    with pytest.raises(NotFound):
        place.resolve(other, snapshot=place.snapshot)


def test_a_keeper_reaches_every_repository_of_its_region(place: Place) -> None:
    world = place.world
    keeper = place.agent(world.add_host(world.operator_account, keeper=True))
    assert place.resolve(keeper).rights == {"append", "read", "delete"}

    elsewhere = world.add_region("elsewhere")
    with world.database.write() as tx:
        far = regions.repository_for(
            tx, world.account.id, elsewhere.id, keys=world.keys, now=world.now
        )
    with pytest.raises(NotFound):
        place.resolve(keeper, repository=far)
    plain = place.agent(world.add_host(world.operator_account))
    with pytest.raises(NotFound):
        place.resolve(plain)


def test_a_narrowed_token_reaches_single_snapshots_only(place: Place) -> None:
    """A2: limited to kinds or resources."""
    world = place.world
    other = world.add_snapshot(world.add_source(place.host, "/root/other"), place.repository)
    narrowings: list[dict[str, Any]] = [{"resources": [place.source.id]}, {"kinds": ["path"]}]
    for narrowing in narrowings:
        credential = place.token("restore", **narrowing)
        with pytest.raises(Forbidden):
            place.resolve(credential)
        assert place.resolve(credential, snapshot=place.snapshot).rights == {"read"}
    with pytest.raises(NotFound):
        place.resolve(place.token("restore", resources=[place.source.id]), snapshot=other)


def test_snapshots_without_data_cannot_be_looked_into(place: Place) -> None:
    world = place.world
    credential = place.token("restore")
    failed = world.add_snapshot(place.source, place.repository, status="FAILED")
    with pytest.raises(NotReady, match="holds nothing"):
        place.resolve(credential, snapshot=failed)
    world.set(place.snapshot, status="DELETED")
    with pytest.raises(NotReady, match="recover it first"):
        place.resolve(credential, snapshot=place.snapshot)


def test_a_revoked_or_unknown_credential_is_none(place: Place) -> None:
    world = place.world
    agent = place.agent(place.host)
    world.set(place.host, revoked_at=world.now)
    for credential in (agent, "hf_" + "x" * 43, "", "hs_nonsense", "\ud800"):
        with pytest.raises(NotSignedIn):
            place.resolve(credential)


def test_a_gateways_own_credential_reaches_no_data(place: Place) -> None:
    with place.world.database.write() as tx:
        own = tokens.issue_gateway(tx, place.world.account.id, now=place.world.now)
    with pytest.raises(Forbidden):
        place.resolve(own)


def test_who_has_no_credit_adds_nothing_with_restic_either(place: Place) -> None:
    """M4: at zero new snapshots are refused, existing data is kept."""
    place.world.set(place.world.account, prepaid=True)
    assert place.resolve(place.token("create", "restore")).rights == {"read"}
    agent = place.resolve(place.agent(place.host))
    assert agent.rights == {"append", "read"}, "a run that was allowed may end"


def test_a_browsers_session_downloads_as_its_owner(place: Place) -> None:
    world = place.world
    secret = "hs_" + "a" * 43
    user, _ = world.add_user("v@example.org", role="viewer")
    world.insert(
        SignIn(
            account_id=world.account.id,
            user_id=user.id,
            secret_sha256=tokens.sha256_of(secret),
            created_at=world.now,
            expires_at=world.advance(days=1),
        )
    )
    world.advance(days=-1)
    assert place.resolve(secret, snapshot=place.snapshot).password is None
    with world.database.write() as tx:
        tx.get_one(Member, (world.account.id, user.id)).role = "member"
    assert place.resolve(secret, snapshot=place.snapshot).password == REPOSITORY_PASSWORD


def test_exactly_one_thing_is_asked_for(place: Place) -> None:
    credential = place.token("restore")
    with pytest.raises(UsageError):
        place.resolve(credential, repository=place.repository, snapshot=place.snapshot)


def test_over_http_a_gateway_can_tell_whose_credential_is_refused(api: Api) -> None:
    place = Place(api.world)
    gateway = api.client(api.gateway_token())
    question = {"credential": place.token("restore"), "snapshot_id": place.snapshot.id}

    def ask(client: Any, **changed: str) -> tuple[int, Any]:
        answer = client.post("/api/v1/gateway/resolve", json=question | changed)
        return answer.status_code, answer.json()

    status, grant = ask(gateway)
    assert status == 200
    assert grant["principal"]["kind"] == "token"
    assert (grant["rights"], grant["password"]) == (["read"], REPOSITORY_PASSWORD)
    status, problem = ask(gateway, credential="hf_" + "x" * 43)
    assert (status, problem["code"]) == (401, "not_signed_in")
    status, problem = ask(api.client("hf_" + "x" * 43))
    assert (status, problem["code"]) == (401, "gateway_not_signed_in")
