"""Copies over HTTP: asking for one, lists, the schedule's policy and lag, money (S6)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from api_world import ORIGIN, Api, InProcess
from control_copies import MB, Regions
from control_money import set_price

from holdfast.compat.lium import app as lium

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def regions(api: Api) -> Regions:
    return Regions(api.world)


def ids(answer: Any) -> set[str]:
    assert answer.status_code == 200, answer.text
    return {each["id"] for each in answer.json()["items"]}


def test_a_copy_is_asked_for_and_followed(api: Api, regions: Regions) -> None:
    """S6"""
    owner, row = api.owner(), regions.add()
    body = {"region_id": regions.there.id}
    made = owner.post(f"/api/v1/snapshots/{row.id}/copies", json=body)
    assert made.status_code == 202, made.text
    copy = made.json()
    assert made.headers["Location"] == f"/api/v1/snapshots/{copy['id']}"
    assert (copy["status"], copy["copy_of_id"], copy["region_id"]) == (
        "PENDING",
        row.id,
        regions.there.id,
    )
    again = owner.post(f"/api/v1/snapshots/{row.id}/copies", json=body)
    assert (again.status_code, again.json()["code"]) == (409, "in_use")
    assert copy["id"] in again.json()["detail"]
    regions.keeper.work()
    shown = owner.get(f"/api/v1/snapshots/{copy['id']}").json()
    assert (shown["status"], shown["stored_bytes"]) == ("COMPLETED", 2 * MB)
    original = owner.get(f"/api/v1/snapshots/{row.id}").json()
    assert (original["region_id"], original["copy_of_id"]) == (regions.here.id, None)


def test_a_key_makes_one_copy(api: Api, regions: Regions) -> None:
    """I1"""
    owner, row = api.owner(Idempotency_Key="one"), regions.add()
    body = {"region_id": regions.there.id}
    first, second = (owner.post(f"/api/v1/snapshots/{row.id}/copies", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert len(regions.copies_of(row)) == 1


def test_what_cannot_be_copied_is_a_problem(api: Api, regions: Regions) -> None:
    owner, row = api.owner(), regions.add()
    path = f"/api/v1/snapshots/{row.id}/copies"
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({}, 422, "invalid"),
        ({"region_id": "there"}, 422, "invalid"),
        ({"region_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12}, 400, "usage"),
        ({"region_id": regions.here.id}, 400, "usage"),
    ]
    for body, status, code in cases:
        answer = owner.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code), body
    failed = regions.add(status="FAILED")
    answer = owner.post(
        f"/api/v1/snapshots/{failed.id}/copies", json={"region_id": regions.there.id}
    )
    assert (answer.status_code, answer.json()["code"]) == (409, "not_ready")


def test_lists_hide_copies_unless_asked(api: Api, regions: Regions) -> None:
    """S2"""
    owner, row = api.owner(), regions.add()
    copy = regions.copied(row)
    assert ids(owner.get("/api/v1/snapshots")) == {row.id}
    assert ids(owner.get(f"/api/v1/snapshots?source_id={row.source_id}")) == {row.id}
    assert ids(owner.get("/api/v1/snapshots?copies=true")) == {row.id, copy.id}
    assert ids(owner.get(f"/api/v1/snapshots?copy_of={row.id}")) == {copy.id}
    assert owner.get("/api/v1/snapshots?copies=maybe").status_code == 422


def test_a_copy_is_deleted_held_and_recovered_like_any_snapshot(api: Api, regions: Regions) -> None:
    owner, row = api.owner(), regions.add()
    path = f"/api/v1/snapshots/{regions.copied(row).id}"
    hold = owner.post(f"/api/v1/snapshots/{row.id}/holds", json={"reason": "audit"}).json()
    refused = owner.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert row.id in refused.json()["detail"]
    owner.delete(f"/api/v1/snapshots/{row.id}/holds/{hold['id']}")
    assert owner.delete(path).json()["status"] == "DELETED"
    assert owner.post(f"{path}/recover").json()["status"] == "COMPLETED"
    assert owner.delete(f"/api/v1/snapshots/{row.id}").json()["status"] == "DELETED"
    gone = owner.get(path).json()
    assert gone["status"] == "DELETED"
    assert gone["removed_because"].startswith("went with its original: deleted by ")


def test_a_schedule_is_copied_and_shows_its_lag(api: Api, regions: Regions) -> None:
    """S6"""
    owner = api.owner()
    body = {
        "source_id": regions.source.id,
        "preset": "daily",
        "retention": {"keep_last": 3},
        "copy_region_id": regions.there.id,
    }
    made = owner.post("/api/v1/schedules", json=body)
    assert made.status_code == 201, made.text
    path = f"/api/v1/schedules/{made.json()['id']}"

    def lag() -> tuple[Any, ...]:
        shown = owner.get(path).json()
        [listed] = owner.get("/api/v1/schedules").json()["items"]
        assert listed == shown
        names = ("copy_region_id", "copy_lag_seconds", "copies_pending", "last_copied_at")
        return tuple(shown[name] for name in names)

    there = regions.there.id
    assert lag() == (there, 0, 0, None)
    tag = owner.get(path).headers["ETag"]
    regions.run(api.world.again(regions.the_schedule()))
    regions.plan()
    api.world.advance(minutes=10)
    assert lag() == (there, 600, 1, None)
    now = owner.get(path).headers["ETag"]
    assert now != tag
    assert now.split("-")[0] == tag.split("-")[0], "the lag is observed and stops no edit"
    regions.keeper.work()
    assert lag()[1:3] == (0, 0)
    assert lag()[3] is not None
    changed = owner.patch(path, json={"copy_region_id": None}, headers={"If-Match": tag})
    assert changed.status_code == 200, changed.text
    assert lag() == (None, None, None, None)
    wrong = owner.patch(path, json={"copy_region_id": regions.here.id})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "usage")
    zipped = owner.post("/api/v1/schedules", json=body | {"archive_format": "zip"})
    assert (zipped.status_code, zipped.json()["code"]) == (400, "usage")


def test_estimates_and_the_ledger_say_where(api: Api, regions: Regions) -> None:
    """M2 M3"""
    owner, row = api.owner(), regions.add()
    here, there = regions.here.id, regions.there.id
    set_price(api.world, "0.09", what="downloaded", unit="GB", region_id=here)
    set_price(api.world, "0.02", what="uploaded", unit="GB", region_id=there)
    found = owner.post(
        "/api/v1/billing/estimates/copy", json={"snapshot_id": row.id, "region_id": there}
    ).json()
    assert found["once"] == "0.00022"
    assert [(each["what"], each["region_id"]) for each in found["costs"]] == [
        ("downloaded", here),
        ("uploaded", there),
        ("stored", there),
    ]
    schedule = {
        "source_id": regions.source.id,
        "preset": "daily",
        "retention": {"keep_last": 3},
    }
    plain, copied = (
        owner.post("/api/v1/billing/estimates/schedule", json=schedule | more).json()
        for more in ({}, {"copy_region_id": there})
    )
    assert len(copied["costs"]) == len(plain["costs"]) + 3
    assert {each["region_id"] for each in copied["costs"]} == {here, there}
    copy = regions.copied(row)
    entries = owner.get(f"/api/v1/billing/ledger?resource_id={copy.id}").json()["items"]
    assert {(each["what"], each["region_id"], each["amount"]) for each in entries} == {
        ("downloaded", here, "-0.00018"),
        ("uploaded", there, "-0.00004"),
    }
    cost = owner.get(f"/api/v1/snapshots/{copy.id}/cost").json()
    assert cost["uploaded"] == "0.00004"


def test_an_operator_invites_a_keeper_for_a_region(api: Api, regions: Regions) -> None:
    """A3"""
    operator = api.client(api.token(api.world.operator_account))
    wanted = {"keeper": True, "region_id": regions.there.id}
    made = operator.post("/api/v1/hosts/invitations", json=wanted)
    assert made.status_code == 201, made.text
    host = api.client().post(
        "/api/v1/agent/enrol",
        json={"token": made.json()["secret"], "name": "keeper", "roots": [{"path": "/root"}]},
    )
    shown = operator.get(f"/api/v1/hosts/{host.json()['host_id']}").json()
    assert (shown["region_id"], shown["keeper"]) == (regions.there.id, True)
    refused = operator.post("/api/v1/hosts/invitations", json={"region_id": regions.there.id})
    assert (refused.status_code, refused.json()["code"]) == (400, "usage")


def test_liums_clients_see_no_copies(api: Api, regions: Regions) -> None:
    """B1: a copy is no run of a backup, and that API has no word for it."""
    row = regions.add()
    copy = regions.copied(row)
    transport = InProcess(lium.make_app(api.deployment))
    try:
        client = httpx.Client(
            transport=transport, base_url=ORIGIN, headers={"X-API-KEY": api.token()}
        )
        logs = "/lium/api/backup-logs"
        assert row.id in client.get(logs).text
        assert copy.id not in client.get(logs).text
        assert client.get(f"{logs}/{row.id}").status_code == 200
        for answer in (
            client.get(f"{logs}/{copy.id}"),
            client.delete(f"{logs}/{copy.id}"),
            client.post(f"{logs}/{copy.id}/cancel"),
        ):
            assert answer.status_code == 404, answer.text
    finally:
        transport.close()
    assert regions.statuses(row, copy) == ["COMPLETED", "COMPLETED"]
