"""What a keeper reaches of another region: what it copies from, while it does.

Spec lines S6 (copies in another region) and A4 (no account reaches another's).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from api_world import Api
from control_world import REPOSITORY_PASSWORD, World

from holdfast.control import copies, gateway_access, jobs, tokens
from holdfast.control.sealing import context_of
from holdfast.control.tables import Account, Host, Job, Region, Repository
from holdfast.errors import NotFound, NotSignedIn

FAR_PASSWORD = "of the other region"


class Regions:
    """A snapshot's repository here, its copies' there, a keeper there, and a copy under way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.there = world.add_region("there")
        self.source = world.add_repository()
        self.destination = self.repository(world.account, self.there)
        self.keeper = self.add_keeper(self.there)
        self.job = self.add_copy()
        self.lease(self.keeper)

    def add_keeper(self, region: Region, **fields: Any) -> Host:
        world = self.world
        host = world.add_host(world.operator_account, **({"keeper": True} | fields))
        return world.set(host, region_id=region.id)

    def repository(self, account: Account, region: Region) -> Repository:
        world = self.world
        row = world.insert(
            Repository(
                account_id=account.id,
                region_id=region.id,
                sealed_password="",
                created_at=world.now,
            )
        )
        sealed = world.keys.seal(FAR_PASSWORD.encode(), context_of(Repository, row.id))
        return world.set(row, sealed_password=sealed)

    def add_copy(self, source: Repository | None = None, **columns: Any) -> Job:
        world = self.world
        source = source or self.source
        wanted: dict[str, Any] = {
            "account_id": world.account.id,
            "region_id": self.there.id,
            "repository_id": self.destination.id,
            "host_id": None,
            "kind": "copy",
            "subject_kind": "snapshot",
            "subject_id": "copy",
            "lock_key": f"copy:{self.destination.id}",
            "spec": {
                "snapshot_id": "copy",
                "copy_of_id": "original",
                "manifest_id": "ab" * 32,
                "source_repository_id": source.id,
                "source_region_id": source.region_id,
            },
            "now": world.now,
        }
        with world.database.write() as tx:
            return jobs.enqueue(tx, **(wanted | columns))

    def lease(self, host: Host, *, seconds: float = 60) -> None:
        self.set_job(
            state="leased",
            leased_to=host.id,
            lease_until=self.world.now + timedelta(seconds=seconds),
        )

    def set_job(self, **columns: Any) -> None:
        self.world.set(self.job, **columns)

    def rights(self, host: Host, repository: Repository | None = None) -> frozenset[str]:
        """What the host's credential may do, by default where the copy is made from."""
        world = self.world
        with world.database.write() as tx:
            credential = tokens.issue_for_host(tx, host, now=world.now)
        with world.database.read() as tx:
            return gateway_access.resolve(
                tx,
                credential,
                repository_id=(repository or self.source).id,
                address="192.0.2.9",
                request_id="request",
                keys=world.keys,
                now=world.now,
            ).rights


@pytest.fixture
def regions(world: World) -> Regions:
    return Regions(world)


def test_a_keeper_reads_what_it_copies_from_and_no_more(regions: Regions) -> None:
    assert regions.rights(regions.keeper) == {"read"}
    assert regions.rights(regions.keeper, regions.destination) == {"read", "append", "delete"}


def test_a_lease_that_runs_out_or_a_job_that_ends_takes_it_back(regions: Regions) -> None:
    regions.world.advance(seconds=59)
    assert regions.rights(regions.keeper) == {"read"}
    regions.world.advance(seconds=1)
    with pytest.raises(NotFound):
        regions.rights(regions.keeper)
    for state in ("succeeded", "failed", "cancelled"):
        regions.lease(regions.keeper)
        assert regions.rights(regions.keeper) == {"read"}
        # As a job is ended: whose report that was stays in its row.
        regions.set_job(state=state, lease_until=None)
        with pytest.raises(NotFound):
            regions.rights(regions.keeper)
    regions.set_job(state="queued", leased_to=None)
    with pytest.raises(NotFound):
        regions.rights(regions.keeper)


def test_other_hosts_have_nothing_of_it(regions: Regions) -> None:
    """Another keeper of that region, one that lost its office, a plain host of the operator."""
    world = regions.world
    others = [
        regions.add_keeper(regions.there),
        regions.add_keeper(regions.there, keeper=False),
        regions.add_keeper(world.add_region("elsewhere")),
    ]
    for other in others:
        with pytest.raises(NotFound):
            regions.rights(other)
    # Even a lease does not help who is no keeper.
    regions.lease(others[1])
    with pytest.raises(NotFound):
        regions.rights(others[1])


def test_a_host_of_a_customer_never_copies_from_another_account(regions: Regions) -> None:
    world = regions.world
    stranger = world.add_host(world.add_account("Stranger"))
    regions.lease(stranger)
    with pytest.raises(NotFound):
        regions.rights(stranger)


def test_a_revoked_keeper_is_not_known_any_more(regions: Regions) -> None:
    regions.world.set(regions.keeper, revoked_at=regions.world.now)
    with pytest.raises(NotSignedIn):
        regions.rights(regions.keeper)


def test_no_other_repository_is_reached_through_a_job(regions: Regions) -> None:
    """A4: neither another account's, though its job names it, nor another one of the account."""
    world = regions.world
    third = regions.repository(world.account, world.add_region("third"))
    foreign = regions.repository(world.add_account("Stranger"), world.region)
    for repository in (third, foreign):
        with pytest.raises(NotFound):
            regions.rights(regions.keeper, repository)
    regions.set_job(spec={**regions.job.spec, "source_repository_id": foreign.id})
    with pytest.raises(NotFound):
        regions.rights(regions.keeper, foreign)
    with world.database.read() as tx:
        job = tx.get_one(Job, regions.job.id)
        assert gateway_access.source_of_job(tx, job, keys=world.keys) is None


def test_a_job_of_another_kind_opens_nothing(regions: Regions) -> None:
    regions.set_job(kind="verify")
    with pytest.raises(NotFound):
        regions.rights(regions.keeper)
    world = regions.world
    with world.database.read() as tx:
        job = tx.get_one(Job, regions.job.id)
        assert gateway_access.source_of_job(tx, job, keys=world.keys) is None


@pytest.mark.parametrize("named", [None, 7, "nonsense", ["x"]])
def test_a_job_that_names_no_repository_has_none(regions: Regions, named: object) -> None:
    regions.set_job(spec={"source_repository_id": named})
    world = regions.world
    with world.database.read() as tx:
        job = tx.get_one(Job, regions.job.id)
        assert gateway_access.source_of_job(tx, job, keys=world.keys) is None


def test_each_of_the_two_repositories_has_its_own_password(regions: Regions) -> None:
    world = regions.world
    with world.database.read() as tx:
        job = tx.get_one(Job, regions.job.id)
        source = gateway_access.source_of_job(tx, job, keys=world.keys)
        destination = gateway_access.repository_of_job(tx, job, keys=world.keys)
    assert source is not None
    assert destination is not None
    assert (source.repository_id, source.password) == (regions.source.id, REPOSITORY_PASSWORD)
    assert (destination.repository_id, destination.password) == (
        regions.destination.id,
        FAR_PASSWORD,
    )
    assert REPOSITORY_PASSWORD not in repr(source)


def test_a_claim_says_where_to_copy_from_and_what_opens_it(api: Api) -> None:
    """S6: the keeper of the region that a copy goes to is told of both repositories."""
    world = api.world
    regions = Regions(world)
    regions.set_job(state="failed", leased_to=None, lease_until=None)
    original = world.add_snapshot(world.add_source(world.add_host()), regions.source)
    with world.database.write() as tx:
        copies.request(
            tx,
            world.principal(),
            original.id,
            region_id=regions.there.id,
            now=world.now,
            keys=world.keys,
        )
    agent = api.client(api.agent_token(regions.keeper))
    claimed = agent.post("/api/v1/agent/claim", json={"instance": "agent-1"}).json()
    assert claimed["job"]["kind"] == "copy"
    assert claimed["job"]["spec"]["manifest_id"] == original.manifest_id
    assert claimed["repository"] == {
        "id": regions.destination.id,
        "url": f"https://data.example.org/restic/{regions.destination.id}/",
        "password": FAR_PASSWORD,
        "exists": False,
    }
    assert claimed["source"] == {
        "id": regions.source.id,
        "url": f"https://data.example.org/restic/{regions.source.id}/",
        "password": REPOSITORY_PASSWORD,
        "exists": False,
    }
    # Other jobs have none.
    regions.add_copy(kind="prune", lock_key=f"repository:{regions.destination.id}")
    claimed = agent.post("/api/v1/agent/claim", json={"instance": "agent-1"}).json()
    assert claimed["job"]["kind"] == "prune"
    assert claimed["repository"]["id"] == regions.destination.id
    assert claimed["source"] is None
