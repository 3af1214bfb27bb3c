"""Buckets as a gateway asks for them, and as people do: the same services over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from api_world import Api
from control_shelf import PART, Shelf, md5
from control_world import REPOSITORY_PASSWORD, World
from sqlalchemy import select

from holdfast.api import buckets as people
from holdfast.control.tables import Bucket, Token

UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Gateway:
    """Asks for one caller."""

    def __init__(self, api: Api, **caller: str) -> None:
        self.client = api.client(api.gateway_token())
        self.caller = caller or {"credential": api.token()}

    def ask(self, verb: str, *, status: int = 200, **body: Any) -> Any:
        answer = self.client.post(
            f"/api/v1/gateway/buckets/{verb}", json={"caller": self.caller, **body}
        )
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def plainly(self, verb: str, *, status: int = 200, **body: Any) -> Any:
        answer = self.client.post(f"/api/v1/gateway/buckets/{verb}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def stored(self, repository_id: str, *sizes: int) -> list[dict[str, Any]]:
        found = self.plainly("reserve", repository_id=repository_id, count=len(sizes))
        return [{"id": each, "bytes": size} for each, size in zip(found["ids"], sizes, strict=True)]


@pytest.fixture
def gateway(api: Api, world: World) -> Gateway:
    world.add_repository()
    return Gateway(api)


@pytest.fixture
def owner(api: Api) -> httpx.Client:
    return api.owner()


def test_the_life_of_an_object(gateway: Gateway, world: World) -> None:
    made = gateway.ask("create", bucket="results")
    assert made["made"]
    assert not gateway.ask("create", bucket="results")["made"]
    opened = gateway.ask("open", bucket="results")
    assert opened["bucket"] == made["bucket"]
    grant = opened["grant"]
    assert grant["rights"] == ["append", "delete", "list", "read"]
    assert (grant["password"], grant["refusal"], opened["views"]) == (REPOSITORY_PASSWORD, None, [])
    bodies = gateway.stored(grant["repository_id"], 3, 4)
    fields: dict[str, Any] = {
        "bodies": bodies,
        "size_bytes": 7,
        "etag": "e",
        "headers": {"x-amz-meta-a": "ü"},
    }
    put = gateway.ask("put", bucket="results", key="a/ü", content_type="text/plain", **fields)
    assert (
        gateway.ask("put", bucket="results", key="a/ü", content_type="text/plain", **fields) == put
    )
    assert gateway.ask("object", bucket="results", key="a/ü") == put
    assert (put["bodies"], put["hidden"], put["headers"]) == (bodies, False, fields["headers"])
    gateway.ask("copy", bucket="results", key="b", source_bucket="results", source_key="a/ü")
    gateway.ask("hide", bucket="results", keys=["c"])
    page = gateway.ask("objects", bucket="results", limit=2)
    assert ([each["key"] for each in page["objects"]], page["more"]) == (["a/ü", "b"], True)
    rest = gateway.ask("objects", bucket="results", after="b")
    assert ([each["key"] for each in rest["objects"]], rest["more"]) == (["c"], False)
    assert gateway.ask("object", bucket="results", key="c")["hidden"]
    assert gateway.ask("remove", bucket="results", status=409)["code"] == "bucket_not_empty"
    assert gateway.ask("delete", bucket="results", keys=["b", "x", "a/ü"])["deleted"] == [
        "a/ü",
        "b",
    ]
    assert gateway.ask("object", bucket="results", key="b", status=404)["code"] == "no_such_key"
    world.advance(hours=1)
    due = gateway.plainly("bodies-due")["bodies"]
    assert {each["id"] for each in due} == {each["id"] for each in bodies}
    assert {each["location"] for each in due} == {"/srv/holdfast"}
    gateway.plainly("bodies-removed", ids=[each["id"] for each in due], status=204)
    assert gateway.plainly("bodies-due")["bodies"] == []
    gateway.ask("remove", bucket="results", status=204)
    assert gateway.ask("open", bucket="results", status=404)["code"] == "no_such_bucket"
    assert gateway.ask("list") == {"buckets": []}


def test_the_life_of_an_upload(gateway: Gateway) -> None:
    repository = gateway.ask("create", bucket="results")["bucket"]["repository_id"]
    of: dict[str, Any] = {"bucket": "results", "key": "big"}
    upload = gateway.ask("upload-begin", **of, content_type="a/b")["upload_id"]
    parts = []
    for number, size in ((1, PART), (2, 9)):
        pieces = gateway.stored(repository, size)
        part: dict[str, Any] = {"number": number, "etag": md5(str(number))}
        gateway.ask("upload-part", **of, upload_id=upload, bodies=pieces, size_bytes=size, **part)
        parts.append(part)
    listed = gateway.ask("upload-parts", **of, upload_id=upload, limit=1)
    assert (listed["more"], listed["upload"]["content_type"]) == (True, "a/b")
    assert [each["number"] for each in listed["parts"]] == [1]
    assert [each["upload_id"] for each in gateway.ask("uploads", bucket="results")["uploads"]] == [
        upload
    ]
    wrong = [{"number": 1, "etag": "x"}]
    refused = gateway.ask("upload-complete", **of, upload_id=upload, parts=wrong, status=400)
    assert refused["code"] == "invalid_part"
    first = gateway.ask("upload-complete", **of, upload_id=upload, parts=parts)
    assert gateway.ask("upload-complete", **of, upload_id=upload, parts=parts) == first
    assert first["etag"].endswith("-2")
    refused = gateway.ask("upload-abort", **of, upload_id=upload, status=404)
    assert refused["code"] == "no_such_upload"


def test_a_caller_is_a_credential_or_a_signature(api: Api, gateway: Gateway, world: World) -> None:
    gateway.ask("create", bucket="results")
    with world.database.read() as tx:
        token_id = tx.scalars(select(Token.id).where(Token.purpose == "access")).first() or ""
    assert len(Gateway(api, token_id=token_id).ask("list")["buckets"]) == 1
    assert Gateway(api, token_id=UNKNOWN).ask("list", status=401)["code"] == "not_signed_in"
    Gateway(api, token_id=token_id, credential="hf_x").ask("list", status=422)
    answer = gateway.client.post(
        "/api/v1/gateway/s3/keys",
        json={"access_key": token_id, "date": "20261102", "region": "us-east-1"},
    )
    (found,) = answer.json()["candidates"]
    assert (found["token_id"], len(bytes.fromhex(found["signing_key"]))) == (token_id, 32)


def test_the_callers_rights_count_and_not_the_gateways(api: Api, gateway: Gateway) -> None:
    gateway.ask("create", bucket="results")
    reader = Gateway(api, credential=api.token(rights=["read"]))
    assert reader.ask("open", bucket="results")["grant"]["rights"] == ["list"]
    empty: dict[str, Any] = {"bodies": [], "size_bytes": 0, "etag": "e"}
    assert reader.ask("put", bucket="results", key="a", **empty, status=403)["code"] == "forbidden"
    stranger = Gateway(api, credential=api.token(api.world.add_account("Other")))
    assert stranger.ask("list") == {"buckets": []}
    stranger.ask("open", bucket="results", status=404)
    asker = Gateway(api, credential=api.gateway_token())
    asker.ask("list", status=403)


def test_people_make_list_and_remove_buckets(owner: httpx.Client, world: World) -> None:
    answer = owner.post("/api/v1/buckets", json={"name": "results"})
    assert (answer.status_code, answer.headers["Location"]) == (201, "/api/v1/buckets/results")
    assert owner.post("/api/v1/buckets", json={"name": "results"}).json() == answer.json()
    assert owner.post("/api/v1/buckets", json={"name": "1.2.3.4"}).status_code == 400
    with world.database.read() as tx:
        bucket = tx.scalars(select(Bucket)).one()
    shelf = Shelf(world)
    shelf.put(bucket, "a", 5)
    shown = owner.get("/api/v1/buckets/results").json()
    assert (shown["objects"], shown["stored_bytes"]) == (1, 5)
    assert owner.get("/api/v1/buckets").json() == {"items": [shown], "next_cursor": None}
    assert owner.get("/api/v1/buckets/other").json()["code"] == "no_such_bucket"
    refused = owner.delete("/api/v1/buckets/results")
    assert (refused.status_code, refused.json()["code"]) == (409, "bucket_not_empty")
    assert owner.delete("/api/v1/buckets/results", params={"contents": "true"}).status_code == 204
    assert owner.get("/api/v1/buckets").json()["items"] == []


def test_a_very_large_bucket_takes_several_requests(
    owner: httpx.Client, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "MOST_BATCHES", 2)
    shelf = Shelf(world)
    bucket = shelf.bucket()
    for number in range(3):
        shelf.begin(bucket, f"{number}")
    shelf.put(bucket, "a", 5)
    refused = owner.delete("/api/v1/buckets/results", params={"contents": "true"})
    assert (refused.status_code, refused.json()["code"]) == (409, "bucket_not_empty")
    assert "4 objects and uploads" in refused.json()["detail"]
    assert owner.delete("/api/v1/buckets/results", params={"contents": "true"}).status_code == 204
