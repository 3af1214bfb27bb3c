"""Drills over the API: every endpoint, what is refused, and what documents say (S5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from api_world import Api
from catalog_agent import CatalogAgent
from control_world import World

from holdfast.control import events
from holdfast.control.tables import Host, Snapshot, Source

pytestmark = pytest.mark.timeout(60)

DRILLS = "/api/v1/drills"
NOBODY = "00000000-0000-4000-8000-000000000000"


@dataclass
class Place:
    """An API with an owner, a snapshot of theirs, and a keeper."""

    api: Api
    world: World
    owner: httpx.Client
    host: Host
    source: Source
    snapshot: Snapshot
    keeper: CatalogAgent

    def start(self, **members: Any) -> dict[str, Any]:
        answer = self.owner.post(DRILLS, json={"snapshot_id": self.snapshot.id, **members})
        assert answer.status_code == 202, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def shown(self, path: str) -> dict[str, Any]:
        answer = self.owner.get(path)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


@pytest.fixture
def place(api: Api) -> Place:
    world = api.world
    host = world.add_host()
    source = world.add_source(host)
    keeper = world.add_host(world.operator_account, keeper=True)
    return Place(
        api,
        world,
        api.owner(),
        host,
        source,
        world.add_snapshot(source, world.add_repository()),
        CatalogAgent(world, keeper),
    )


def test_s5_a_drill_is_asked_for_and_read(place: Place) -> None:
    answer = place.owner.post(DRILLS, json={"snapshot_id": place.snapshot.id})
    assert answer.status_code == 202
    made = answer.json()
    assert answer.headers["Location"].endswith(f"{DRILLS}/{made['id']}")
    assert (made["status"], made["passed"], made["host_id"]) == ("PENDING", None, None)
    assert (made["trigger"], made["paths"], made["schedule_id"]) == ("manual", [], None)
    place.keeper.work()
    done = place.shown(f"{DRILLS}/{made['id']}")
    assert (done["status"], done["passed"], done["findings"]) == ("COMPLETED", True, [])
    assert (done["files"], done["restored_bytes"], done["compared_bytes"]) == (
        3,
        3_000_000,
        3_000_000,
    )
    assert done["restore_milliseconds"] == 1500
    assert place.shown(f"{DRILLS}/{made['id']}/log") == {"items": [], "next_cursor": None}


def test_s5_a_host_and_paths_are_chosen(place: Place) -> None:
    made = place.start(host_id=place.host.id, paths=["b/", "a"])
    assert (made["host_id"], made["paths"]) == (place.host.id, ["a", "b"])


def test_i1_a_repeated_request_makes_one_drill(place: Place) -> None:
    body = {"snapshot_id": place.snapshot.id}
    first, second = (
        place.owner.post(DRILLS, json=body, headers={"Idempotency-Key": "once"}) for _ in range(2)
    )
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    again = place.owner.post(DRILLS, json=body)
    assert (again.status_code, again.json()["code"]) == (409, "in_use")
    other = place.owner.post(
        DRILLS, json={**body, "paths": ["a"]}, headers={"Idempotency-Key": "once"}
    )
    assert other.json()["code"] == "idempotency_key_reused"


def test_i1_lists_are_paged_and_filtered(place: Place) -> None:
    made = []
    for number in range(3):
        place.world.advance(minutes=1)
        made.append(place.start(host_id=place.world.add_host().id, paths=[f"p{number}"])["id"])
    first = place.shown(f"{DRILLS}?limit=2")
    assert [each["id"] for each in first["items"]] == made[:0:-1]
    rest = place.shown(f"{DRILLS}?limit=2&cursor={first['next_cursor']}")
    assert ([each["id"] for each in rest["items"]], rest["next_cursor"]) == ([made[0]], None)
    of_it = f"{DRILLS}?snapshot_id={place.snapshot.id}"
    assert len(place.shown(of_it)["items"]) == 3
    assert place.shown(f"{of_it}&status=FAILED")["items"] == []
    assert place.shown(f"{DRILLS}?schedule_id={NOBODY}")["items"] == []
    assert place.owner.get(f"{DRILLS}?status=DONE").status_code == 422
    assert place.owner.get(f"{DRILLS}?host_id={NOBODY}").status_code == 422


def test_i1_a_drill_that_has_not_changed_is_not_sent_again(place: Place) -> None:
    path = f"{DRILLS}/{place.start()['id']}"
    tag = place.owner.get(path).headers["ETag"]
    assert place.owner.get(path, headers={"If-None-Match": tag}).status_code == 304
    place.keeper.work()
    assert place.owner.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_s5_cancelling(place: Place) -> None:
    cancel = f"{DRILLS}/{place.start()['id']}/cancel"
    for _ in range(2):
        answer = place.owner.post(cancel)
        assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    over = place.start()
    place.keeper.work()
    answer = place.owner.post(f"{DRILLS}/{over['id']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_ready")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, (422, "invalid")),
        ({"snapshot_id": NOBODY}, (404, "not_found")),
        ({"snapshot_id": "{snapshot}", "host_id": NOBODY}, (404, "not_found")),
        ({"snapshot_id": "{snapshot}", "paths": ["/etc"]}, (400, "path_malformed")),
        ({"snapshot_id": "{snapshot}", "paths": ["../a"]}, (400, "path_escapes_root")),
        ({"snapshot_id": "{snapshot}", "paths": [""]}, (422, "invalid")),
        ({"snapshot_id": "{snapshot}", "paths": ["a"] * 1001}, (422, "invalid")),
        ({"snapshot_id": "{snapshot}", "target": "/root"}, (422, "invalid")),
    ],
)
def test_requests_that_cannot_be_meant(
    place: Place, members: dict[str, Any], expected: tuple[int, str]
) -> None:
    if members.get("snapshot_id") == "{snapshot}":
        members = members | {"snapshot_id": place.snapshot.id}
    answer = place.owner.post(DRILLS, json=members)
    assert (answer.status_code, answer.json()["code"]) == expected, answer.text


def test_s5_a_snapshot_says_when_it_was_last_proven(place: Place) -> None:
    path = f"/api/v1/snapshots/{place.snapshot.id}"
    before = place.owner.get(path)
    assert [before.json()[name] for name in ("drilled_at", "drill", "proven_at")] == [None] * 3
    row = place.start()
    place.keeper.work()
    after = place.owner.get(path)
    drilled = after.json()
    assert drilled["drill"]["drill_id"] == row["id"]
    assert drilled["proven_at"] == drilled["drilled_at"] is not None
    # What is only observed is no change that somebody else has made.
    edit = place.owner.patch(path, json={"name": "n"}, headers={"If-Match": before.headers["ETag"]})
    assert edit.status_code == 200, edit.text
    later = place.world.advance(hours=1)
    place.world.set(place.snapshot, verified_at=later)
    verified = place.shown(path)
    assert verified["proven_at"] == verified["verified_at"] != verified["drilled_at"]
    [listed] = place.shown("/api/v1/snapshots")["items"]
    assert listed["proven_at"] == verified["proven_at"]


def test_s5_a_schedule_has_drills(place: Place) -> None:
    body = {"source_id": place.source.id, "preset": "daily", "retention": {"keep_last": 1}}
    made = place.owner.post("/api/v1/schedules", json={**body, "drill_days": 30})
    assert made.status_code == 201, made.text
    schedule = made.json()
    assert (schedule["drill_days"], schedule["drill_due_at"]) == (30, "2026-12-02T10:00:00Z")
    path = f"/api/v1/schedules/{schedule['id']}"
    assert place.owner.patch(path, json={"name": "n"}).json()["drill_days"] == 30
    weekly = place.owner.patch(path, json={"drill_days": 7}).json()
    assert (weekly["drill_days"], weekly["drill_due_at"]) == (7, "2026-11-09T10:00:00Z")
    off = place.owner.patch(path, json={"drill_days": None}).json()
    assert (off["drill_days"], off["drill_due_at"]) == (None, None)
    for wrong in (0, 366, "7", 1.5, True):
        answer = place.owner.patch(path, json={"drill_days": wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), wrong
    archive = {**body, "archive_format": "zip", "drill_days": 7}
    answer = place.owner.post("/api/v1/schedules", json=archive)
    assert (answer.status_code, answer.json()["code"]) == (400, "usage")


def test_s8_webhooks_are_told(place: Place) -> None:
    kinds = ["drill.passed", "drill.failed", "drill.not_done", "drill.cancelled"]
    assert set(kinds) <= set(events.KINDS)
    hook = {"url": "https://hooks.example.org/", "kinds": kinds}
    answer = place.owner.post("/api/v1/webhooks", json=hook)
    assert answer.status_code == 201, answer.text
    place.start()
    place.keeper.work()
    told = place.shown("/api/v1/events?kinds=drill.passed")["items"]
    assert [each["subject_kind"] for each in told] == ["drill"]
    deliveries = place.shown(f"/api/v1/webhooks/{answer.json()['webhook']['id']}/deliveries")[
        "items"
    ]
    assert [each["event_id"] for each in deliveries] == [told[0]["id"]]


def test_s5_the_job_is_among_the_jobs(place: Place) -> None:
    made = place.start()
    [job] = place.shown("/api/v1/jobs?kind=drill")["items"]
    assert (job["id"], job["subject_id"]) == (made["job_id"], made["id"])
    answer = place.owner.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert answer.status_code == 200, answer.text
    assert place.shown(f"{DRILLS}/{made['id']}")["status"] == "CANCELLED"
