"""Qarnot's words: what a submission is read as, what a task is written as, errors, paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from sdk_server import SdkServer, sdk_server

from holdfast.compat.qarnot.document import task_document, written
from holdfast.compat.qarnot.submission import Submission
from holdfast.control.tables import Task, TaskInstance
from holdfast.errors import UsageError
from holdfast.sdk.client import Client
from holdfast.sdk.sign_in import sign_in
from holdfast.serve.app import OneApp, Surface
from holdfast.serve.web_server import WebServer, listen

__all__ = ["sdk_server"]

pytestmark = pytest.mark.xdist_group("sdk")

NOW = datetime(2026, 11, 21, 14, 5, 30, tzinfo=UTC)
AS_SENT: dict[str, Any] = {
    "name": "heat",
    "profile": "batch",
    "constants": [{"key": "COMMAND", "value": "true"}, {"key": "EMPTY", "value": None}],
    "constraints": [],
    "forcedConstants": [],
    "dependencies": {"dependsOn": []},
    "waitForPoolResourcesSynchronization": None,
    "uploadResultsOnCancellation": None,
    "labels": {},
    "advancedResourceBuckets": [
        {"bucketName": "inputs", "filtering": {}, "resourcesTransformation": {}},
        {
            "bucketName": "more",
            "filtering": {"prefixFiltering": {"prefix": "a/"}},
            "resourcesTransformation": {"stripPrefix": {"prefix": "a/"}},
        },
    ],
    "instanceCount": 2,
    "tags": ["one"],
    "autoDeleteOnCompletion": False,
    "completionTimeToLive": "00:00:00",
    "hardwareConstraints": [{"discriminator": "CpuModelHardware", "cpuModel": "x"}],
    "privileges": {"exportApiAndStorageCredentialsInEnvironment": False},
    "retrySettings": {"maxTotalRetries": None, "maxPerInstanceRetries": None},
}


def submission(**members: Any) -> Submission:
    return Submission.model_validate(AS_SENT | members)


def task(**members: Any) -> Task:
    fields: dict[str, Any] = {
        "id": "8f0e4c1e-0000-4000-8000-000000000000",
        "name": "heat",
        "profile": "batch",
        "state": "FullyExecuting",
        "constants": [],
        "inputs": [],
        "tags": [],
        "labels": {},
        "extra": {},
        "instance_count": 1,
        "results_count": 0,
        "results_on_cancel": False,
        "created_at": NOW,
        "state_since": NOW,
    }
    return Task(**(fields | members))


def test_a_submission_becomes_the_task_that_it_describes() -> None:
    """I2, T1: as the client sends it, with everything that it always sends."""
    found = submission(snapshotWhitelist="npy$", resultsBlacklist="", resultBucket="out").task()
    assert found.constants == (("COMMAND", "true"), ("EMPTY", ""))
    assert list(found.inputs) == [
        {"bucket": "inputs", "prefix": "", "strip_prefix": ""},
        {"bucket": "more", "prefix": "a/", "strip_prefix": "a/"},
    ]
    assert (found.instance_count, found.tags, found.result_bucket) == (2, ("one",), "out")
    assert (found.snapshot_whitelist, found.results_blacklist) == ("npy$", None)
    assert found.results_on_cancel is False
    assert found.extra["completionTimeToLive"] == "00:00:00"
    assert "waitForPoolResourcesSynchronization" not in found.extra
    plain = submission(resourceBuckets=["a", "b"], advancedResourceBuckets=None).task()
    assert [each["bucket"] for each in plain.inputs] == ["a", "b"]


@pytest.mark.parametrize(
    "members",
    [
        {"poolUuid": "p"},
        {"jobUuid": "j"},
        {"advancedRanges": "1-4"},
        {"secretsAccessRights": {"bySecret": [{"key": "k"}]}},
        {"forcedNetworkRules": [{"inbound": True}]},
        {"targetedReservedMachineKey": "m"},
        {"targetedReservationName": "r"},
        {"dependencies": {"dependsOn": ["t"]}},
        {"dependencies": {"advancedDependsOn": [{"taskUuid": "t"}]}},
        {"profile": None},
    ],
)
def test_what_is_not_built_is_refused_and_not_ignored(members: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        submission(**members).task()


@pytest.mark.parametrize(
    "members",
    [
        {"poolUuid": None},
        {"advancedRanges": ""},
        {"forcedNetworkRules": []},
        {"secretsAccessRights": {"bySecret": [], "byPrefix": []}},
    ],
)
def test_an_empty_wish_for_it_is_no_wish(members: dict[str, Any]) -> None:
    assert submission(**members).task().name == "heat"


def test_times_are_as_the_client_parses_them() -> None:
    """Its format is fixed: six digits of a fraction at most, and a Z."""
    form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    for at in (NOW, NOW.replace(microsecond=123456), elsewhere):
        assert re.fullmatch(form, written(at))
    assert written(elsewhere) == written(NOW) == "2026-11-21T14:05:30.000000Z"


def test_a_document_has_no_null_where_the_client_chokes() -> None:
    """It iterates, parses or compares these as soon as they are there."""
    document = task_document(task(), [])
    assert {name for name, value in document.items() if value is None} == {"status"}
    for name in ("completedInstances", "dependencies", "secretsAccessRights", "endDate"):
        assert name not in document
    assert document["resultsCount"] == 0
    assert document["errors"] == []


def test_a_document_gives_back_what_was_sent_and_says_what_went_wrong() -> None:
    extra = {"privileges": {"x": True}, "constraints": [], "hardwareConstraints": []}
    failed = TaskInstance(number=3, state="failed", error_code="runner_lost", error_message="gone")
    running = TaskInstance(number=1, state="executing")
    document = task_document(
        task(
            extra=extra,
            ended_at=NOW,
            periodic_seconds=60,
            inputs=[{"bucket": "in", "prefix": "a/", "strip_prefix": ""}, {"bucket": "b"}],
        ),
        [running, failed],
    )
    assert document["privileges"] == {"x": True}
    assert "constraints" not in document, "only what the client reads again"
    assert document["errors"] == [
        {"code": "runner_lost", "message": "Instance 3: gone", "debug": ""}
    ]
    assert (document["runningInstanceCount"], document["snapshotInterval"]) == (1, 60)
    assert document["endDate"] == written(NOW)
    assert document["advancedResourceBuckets"] == [
        {
            "bucketName": "in",
            "filtering": {"prefixFiltering": {"prefix": "a/"}},
            "resourcesTransformation": {},
        },
        {"bucketName": "b", "filtering": {}, "resourcesTransformation": {}},
    ]


@pytest.fixture(scope="module")
def token(sdk_server: SdkServer) -> str:
    return sign_in(
        sdk_server.url, "admin@localhost", sdk_server.password, token_name="qarnot"
    ).secret


@pytest.fixture(scope="module")
def http(sdk_server: SdkServer, token: str) -> Iterator[httpx.Client]:
    app = sdk_server.parts.qarnot(sdk_server.parts.deployment(sdk_server.url))
    listener = listen("127.0.0.1", 0)
    web = WebServer(OneApp([Surface(app, ("/qarnot",))]), listener)
    web.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    # The client sends the token alone, without a scheme before it.
    with httpx.Client(base_url=url, headers={"Authorization": token}, timeout=30) as opened:
        yield opened
    web.stop()
    listener.close()


@pytest.mark.parametrize("prefix", ["/qarnot", "/qarnot/v1", "/qarnot/v2.3"])
def test_every_version_in_a_path_is_the_same(http: httpx.Client, prefix: str) -> None:
    assert http.get(f"{prefix}/info").json() == {"email": "admin@localhost"}
    assert "batch" in http.get(f"{prefix}/profiles").json()
    constants = http.get(f"{prefix}/profiles/batch").json()["constants"]
    assert [each["name"] for each in constants] == ["COMMAND"]
    assert http.get(f"{prefix}/settings").json()["storage"].endswith("/s3")


def test_a_token_is_taken_with_and_without_a_scheme(http: httpx.Client, token: str) -> None:
    for credential, status in ((f"Bearer {token}", 200), ("hf_" + "x" * 43, 401), ("", 401)):
        answer = http.get("/qarnot/info", headers={"Authorization": credential})
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["message"]


def submit(http: httpx.Client, name: str, *tags: str, **members: Any) -> Any:
    constants = [{"key": "COMMAND", "value": "true"}]
    body = {"name": name, "profile": "batch", "constants": constants, "tags": list(tags), **members}
    return http.post("/qarnot/tasks", json=body)


def test_a_list_is_filtered_by_tags(http: httpx.Client) -> None:
    for name, tags in (("a", ("x",)), ("b", ("x", "y")), ("c", ("z",)), ("d", ())):
        assert submit(http, name, *tags).status_code == 200

    def leaf(tag: str) -> dict[str, Any]:
        return {"operator": "Equal", "field": "Tags", "value": tag}

    def named(**wanted: Any) -> list[str]:
        answer = http.post("/qarnot/tasks/paginate", json=wanted)
        assert answer.status_code == 200, answer.text
        return [each["name"] for each in answer.json()["data"]]

    assert named() == ["d", "c", "b", "a"]
    assert named(filter=leaf("x")) == ["b", "a"]
    assert named(filter={"operator": "And", "filters": [leaf("x"), leaf("y")]}) == ["b"]
    assert named(filter={"operator": "Or", "filters": [leaf("y"), leaf("z")]}) == ["c", "b"]
    first = http.post("/qarnot/tasks/paginate", json={"maximumResults": 3}).json()
    assert (len(first["data"]), first["isTruncated"]) == (3, True)
    rest = http.post("/qarnot/tasks/paginate", json={"token": first["nextToken"]}).json()
    assert [each["name"] for each in rest["data"]] == ["a"]
    assert (rest["isTruncated"], rest["nextToken"]) == (False, None)

    deep = leaf("x")
    for _ in range(20):
        deep = {"operator": "And", "filters": [deep]}
    for refused in (
        {"operator": "NotEqual", "field": "Tags", "value": "x"},
        {"operator": "Equal", "field": "Name", "value": "x"},
        {"operator": "Xor", "filters": [leaf("x")]},
        {"operator": "Or", "filters": [leaf(str(each)) for each in range(101)]},
        deep,
    ):
        answer = http.post("/qarnot/tasks/paginate", json={"filter": refused})
        assert answer.status_code == 400
        assert answer.json()["message"]


def test_errors_are_of_the_kinds_that_the_client_knows(
    http: httpx.Client, sdk_server: SdkServer, token: str
) -> None:
    """404: no such task or bucket; 403: the task does not run; 400: it cannot be meant."""
    uuid = submit(http, "errors").json()["uuid"]
    for answer, status in (
        (http.get("/qarnot/tasks/nobody"), 404),
        (http.post(f"/qarnot/tasks/{uuid}/snapshot", json={}), 403),
        (http.post(f"/qarnot/tasks/{uuid}/snapshot/periodic", json={"interval": 0}), 400),
        (http.post(f"/qarnot/tasks/{uuid}/snapshot/periodic", json={}), 400),
        (http.get(f"/qarnot/tasks/{uuid}/snapshot/{uuid}"), 404),
        (http.patch(f"/qarnot/tasks/{uuid}", json={}), 400),
        (submit(http, "x", resultBucket="not-there"), 404),
        (submit(http, "x", poolUuid="p"), 400),
        (submit(http, "x" * 201), 400),
        (http.get("/qarnot/nothing"), 404),
        (http.get("/qarnot/profiles/vm"), 404),
    ):
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"message"}
    with Client(sdk_server.url, token) as client:
        reader = client.tokens.create("reader", ["read"]).secret
    forbidden = http.get(f"/qarnot/tasks/{uuid}/stdout", headers={"Authorization": reader})
    assert forbidden.status_code == 403


def test_of_several_tasks_each_is_answered_for_itself(http: httpx.Client) -> None:
    good: dict[str, Any] = {
        "name": "good",
        "profile": "batch",
        "constants": [{"key": "COMMAND", "value": "true"}],
    }
    answers = http.post("/qarnot/tasks", json=[good, good | {"poolUuid": "p"}, good]).json()
    assert [each["statusCode"] for each in answers] == [200, 400, 200]
    assert answers[1]["uuid"] is None
    assert answers[1]["message"]
    assert len({each["uuid"] for each in answers}) == 3


def test_tags_and_labels_are_changed_and_a_task_is_ended(http: httpx.Client) -> None:
    uuid = submit(http, "life", "old", shortname="the-life").json()["uuid"]
    assert http.get("/qarnot/tasks/the-life").json()["uuid"] == uuid
    sent = http.get(f"/qarnot/tasks/{uuid}").json() | {"tags": ["new"], "labels": {"a": "b"}}
    changed = http.put(f"/qarnot/tasks/{uuid}", json=sent).json()
    assert (changed["tags"], changed["labels"]) == (["new"], {"a": "b"})
    assert http.post(f"/qarnot/tasks/{uuid}/stdout").text == ""
    assert http.get(f"/qarnot/tasks/{uuid}/stderr/0").text == ""
    assert http.get(f"/qarnot/tasks/{uuid}/stderr/7").status_code == 404
    assert http.post(f"/qarnot/tasks/{uuid}/abort").json()["state"] == "Cancelled"
    assert http.delete(f"/qarnot/tasks/{uuid}").status_code == 200
    assert http.get(f"/qarnot/tasks/{uuid}").status_code == 404
