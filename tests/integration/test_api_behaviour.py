"""What every resource of the API has in common: problems, ids, ETags, keys, pages, limits."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import Any

import pytest
from api_world import ORIGIN, UNLIMITED, Api
from sqlalchemy import func, select

from holdfast.control import users
from holdfast.control.tables import IdempotencyKey, Member, Source, Token

pytestmark = pytest.mark.timeout(60)


def new_source(api: Api, path: str = "/root/models") -> dict[str, Any]:
    return {"host_id": api.world.add_host().id, "path": path}


# Problems and request ids


def test_an_error_is_a_problem_document_with_the_requests_id(api: Api) -> None:
    """I1: problem+json from the tree of errors."""
    answer = api.owner(X_Request_ID="mine-1").get("/api/v1/sources/" + "0" * 36)

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-ID"] == "mine-1"
    document = answer.json()
    assert document["code"] == "not_found"
    assert document["request_id"] == "mine-1"
    assert document["status"] == 404
    assert document["retryable"] is False


def test_what_is_wrong_with_a_request_is_listed_without_repeating_it(api: Api) -> None:
    answer = api.owner().post(
        "/api/v1/tokens", json={"name": "x" * 101, "rights": ["everything"], "more": "s3cret"}
    )

    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid"
    fields = {each["field"] for each in answer.json()["errors"]}
    assert fields == {"body.name", "body.rights.0", "body.more"}
    assert "s3cret" not in answer.text
    assert "xxx" not in answer.text


def json_text(content: bytes) -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": "application/json"}}


def named(name: bytes) -> dict[str, Any]:
    return json_text(b'{"name": "' + name + b'", "rights": ["read"]}')


@pytest.mark.parametrize(
    ("method", "path", "options", "expected"),
    [
        ("GET", "/api/v1/nothing", {}, (404, "not_found")),
        ("GET", "/api/v1/hosts/not-an-id", {}, (404, "not_found")),
        ("PUT", "/api/v1/sources", {}, (405, "method_not_allowed")),
        ("POST", "/api/v1/sources", {"content": b"{}"}, (415, "unsupported_media_type")),
        ("POST", "/api/v1/sources", json_text(b"{"), (400, "bad_request")),
        ("POST", "/api/v1/sources", json_text(b"\xff"), (400, "bad_request")),
        ("POST", "/api/v1/sources", json_text(b"[" * 100_000), (400, "bad_request")),
        ("POST", "/api/v1/sources", {}, (422, "invalid")),
        ("GET", "/api/v1/sources?hostid=1", {}, (422, "invalid")),
        ("GET", "/api/v1/sources?limit=1&limit=2", {}, (422, "invalid")),
        ("GET", "/api/v1/sources?limit=501", {}, (422, "invalid")),
        ("GET", "/api/v1/sources?cursor=nonsense", {}, (400, "usage")),
        ("GET", "/api/v1/sources?search=%00", {}, (422, "invalid")),
        ("POST", "/api/v1/tokens", named(rb"a\u0000"), (422, "invalid")),
        ("POST", "/api/v1/tokens", named(rb"\ud800"), (422, "invalid")),
        ("POST", "/api/v1/tokens", named(rb'a", "\ud800": "'), (422, "invalid")),
    ],
)
def test_requests_that_cannot_be_meant(
    api: Api, method: str, path: str, options: dict[str, Any], expected: tuple[int, str]
) -> None:
    answer = api.owner().request(method, path, **options)

    assert (answer.status_code, answer.json()["code"]) == expected, answer.text


def test_a_method_that_is_not_there_is_told_which_ones_are(api: Api) -> None:
    host = api.world.add_host()
    answer = api.owner().put(f"/api/v1/hosts/{host.id}")
    assert answer.headers["Allow"] == "GET, PATCH"
    assert api.client().patch("/health").headers["Allow"] == "GET"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(api: Api) -> None:
    answer = api.owner().post(
        "/api/v1/sources",
        content=b" " * ((8 << 20) + 1),
        headers={"Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_what_nobody_foresaw_is_logged_and_tells_nothing(api: Api) -> None:
    def broken() -> Any:
        raise ZeroDivisionError("the database's password is s3cret")

    api.deployment = replace_clock(api, broken)
    answer = api.client(X_Request_ID="that-one").get("/version")

    assert (answer.status_code, answer.json()["code"]) == (500, "unexpected")
    assert "s3cret" not in answer.text
    logged = [line for line in api.log if line["event"] == "unexpected"]
    assert [line["request_id"] for line in logged] == ["that-one"]
    assert "ZeroDivisionError" in logged[0]["exception"]


def replace_clock(api: Api, clock: Any) -> Any:
    changed = replace(api.deployment, clock=clock)
    api.app.state.deployment = changed
    return changed


def test_the_access_log_has_no_query_and_no_header(api: Api) -> None:
    secret = api.token()
    api.client(secret).get("/api/v1/sources", params={"search": "my-secret-project"})

    line = next(each for each in api.log if each["event"] == "request")
    assert line["path"] == "/api/v1/sources"
    assert line["status"] == 200
    assert line["caller"].startswith("token:")
    assert line["address"] == "192.0.2.7"
    assert "my-secret-project" not in str(api.log)
    assert secret not in str(api.log)


# ETags


def test_a_document_that_did_not_change_is_not_sent_again(api: Api) -> None:
    """I1: ETags."""
    owner = api.owner()
    host = api.world.add_host()
    path = f"/api/v1/hosts/{host.id}"
    first = owner.get(path)

    again = owner.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]

    api.world.set(host, inventory={"gpus": 8})
    assert owner.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 200


def test_nobody_overwrites_what_they_have_not_seen(api: Api) -> None:
    """I1: If-Match."""
    owner = api.owner()
    host = api.world.add_host()
    path = f"/api/v1/hosts/{host.id}"
    seen = owner.get(path).headers["ETag"]

    api.world.set(host, inventory={"gpus": 8}, seen_at=api.world.advance(seconds=20))
    changed = owner.patch(path, json={"name": "one"}, headers={"If-Match": seen})
    assert changed.status_code == 200, "a heartbeat is no edit"

    late = owner.patch(path, json={"name": "two"}, headers={"If-Match": seen})
    assert (late.status_code, late.json()["code"]) == (412, "changed")
    assert owner.get(path).json()["name"] == "one"
    fresh = changed.headers["ETag"]
    assert owner.patch(path, json={"name": "two"}, headers={"If-Match": fresh}).status_code == 200
    assert owner.patch(path, json={"name": "three"}, headers={"If-Match": "*"}).status_code == 200


def test_of_two_edits_that_saw_the_same_one_goes_through(api: Api) -> None:
    host = api.world.add_host()
    path = f"/api/v1/hosts/{host.id}"
    secret = api.token()
    seen = api.client(secret).get(path).headers["ETag"]
    statuses: list[int] = []

    def edit(name: str) -> None:
        answer = api.client(secret).patch(path, json={"name": name}, headers={"If-Match": seen})
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=edit, args=(f"name-{each}",)) for each in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 412, 412, 412]


# Idempotency keys


def test_a_repeated_request_is_done_once_and_answered_alike(api: Api) -> None:
    """I1: idempotency keys."""
    owner = api.owner(Idempotency_Key="key-1")
    body = new_source(api)

    first, second = (owner.post("/api/v1/sources", json=body) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json()
    assert second.headers["Location"] == first.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert count(api, Source) == 1


def test_a_key_belongs_to_one_request_of_one_caller(api: Api) -> None:
    body = new_source(api)
    first = api.owner(Idempotency_Key="key-1")
    assert first.post("/api/v1/sources", json=body).status_code == 201

    other_body = first.post("/api/v1/sources", json=body | {"path": "/root/other"})
    other_caller = api.owner(Idempotency_Key="key-1").post("/api/v1/sources", json=body)
    for answer in (other_body, other_caller):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    other_account = api.world.add_account("Other")
    elsewhere = api.owner(other_account, Idempotency_Key="key-1")
    answer = elsewhere.post("/api/v1/tokens", json={"name": "x", "rights": ["read"]})
    assert answer.status_code == 201, "keys of accounts are apart"


def test_a_failure_is_not_kept_under_its_key(api: Api) -> None:
    owner = api.owner(Idempotency_Key="key-1")
    host = api.world.add_host()
    body = {"host_id": host.id, "path": "/elsewhere"}
    assert owner.post("/api/v1/sources", json=body).json()["code"] == "path_outside_roots"

    api.world.set(host, roots=[{"path": "/elsewhere", "directory": "/elsewhere"}])
    assert owner.post("/api/v1/sources", json=body).status_code == 201


def test_the_same_request_many_times_at_once_is_done_once(api: Api) -> None:
    secret, body = api.token(), new_source(api)
    answers: list[Any] = []

    def create() -> None:
        client = api.client(secret, Idempotency_Key="key-1")
        answers.append(client.post("/api/v1/sources", json=body))

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count(api, Source) == 1


def test_an_answer_with_a_secret_is_repeated_and_kept_sealed(api: Api) -> None:
    owner = api.owner(Idempotency_Key="key-1")
    body = {"name": "ci", "rights": ["create"]}

    first, second = (owner.post("/api/v1/tokens", json=body) for _ in range(2))

    assert second.json() == first.json()
    secret = first.json()["secret"]
    assert api.client(secret).get("/api/v1/me").json()["rights"] == ["create"]
    with api.world.database.read() as tx:
        kept = tx.scalars(select(IdempotencyKey)).one()
    assert secret not in str(kept.body)


def test_the_answer_is_kept_in_the_transaction_of_the_work(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.control import idempotency

    def lost(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("killed between the work and its answer")

    monkeypatch.setattr(idempotency, "keep", lost)
    owner = api.owner(Idempotency_Key="key-1")
    assert owner.post("/api/v1/sources", json=new_source(api)).status_code == 500
    assert count(api, Source) == 0


def count(api: Api, table: Any) -> int:
    with api.world.database.read() as tx:
        return tx.scalar(select(func.count()).select_from(table)) or 0


# Pages


def test_a_list_is_walked_by_its_links_while_rows_come(api: Api) -> None:
    """S2, I1: cursors."""
    owner = api.owner()
    hosts = []
    for _ in range(7):
        hosts.append(api.world.add_host().id)
        api.world.advance(seconds=1)
    url, found = "/api/v1/hosts?limit=3", []
    while url:
        answer = owner.get(url)
        found += [each["id"] for each in answer.json()["items"]]
        assert (answer.json()["next_cursor"] is None) == ("Link" not in answer.headers)
        link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers.get("Link", ""))
        url = link[1] if link else ""
        assert not url or "limit=3" in url
        api.world.add_host()
    assert found == hosts[::-1]


@pytest.mark.parametrize("listed", ["members", "regions", "prices", "repositories"])
def test_lists_that_are_short_have_pages_too(api: Api, listed: str) -> None:
    world = api.world
    for each in "abc":
        region = world.add_region(f"region-{each}")
        world.add_user(f"{each}@example.org")
        world.insert_repository(region) if hasattr(world, "insert_repository") else None
        with world.database.write() as tx:
            from decimal import Decimal

            from holdfast.control import prices, regions

            prices.set_price(
                tx, what="stored", region_id=region.id, currency="EUR", rate=Decimal("0.02"),
                unit="GB-month", valid_from=world.now, origin="test", now=world.now,
            )  # fmt: skip
            regions.repository_for(tx, world.account.id, region.id, keys=world.keys, now=world.now)
    owner = api.owner()
    whole = owner.get(f"/api/v1/{listed}").json()["items"]
    assert len(whole) >= 3

    items, cursor = [], None
    while True:
        params = {"limit": "1"} | ({"cursor": cursor} if cursor else {})
        page = owner.get(f"/api/v1/{listed}", params=params).json()
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert items == whole
    bad = owner.get(f"/api/v1/{listed}", params={"cursor": "elsewhere"})
    assert (bad.status_code, bad.json()["code"]) == (400, "usage")


# Signing in and cookies


def signed_in(api: Api, **headers: str) -> Any:
    world = api.world
    with world.database.write() as tx:
        user = users.create_user(tx, "erika@example.org", "correct horse", now=world.now)
        tx.add(
            Member(account_id=world.account.id, user_id=user.id, role="owner", created_at=world.now)
        )
    client = api.client(**headers)
    answer = client.post(
        "/api/v1/sessions", json={"email": "Erika@example.org", "password": "correct horse"}
    )
    assert answer.status_code == 201, answer.text
    return client, answer


def test_a_session_lives_in_a_cookie_that_scripts_cannot_read(api: Api) -> None:
    """A2: people sign in with a password and a session cookie."""
    client, answer = signed_in(api, Origin=ORIGIN)

    cookie = answer.headers["Set-Cookie"]
    assert re.search(r"holdfast_session=hs_", cookie)
    for part in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert part in cookie
    assert "hs_" not in answer.text
    assert client.get("/api/v1/me").json()["kind"] == "user"

    assert client.delete("/api/v1/sessions/current").status_code == 204
    secret = cookie.partition("=")[2].partition(";")[0]
    stolen = api.client(Cookie=f"holdfast_session={secret}")
    assert stolen.get("/api/v1/me").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": ORIGIN}, 201),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
    ],
)
def test_a_change_by_cookie_must_come_from_our_own_pages(
    api: Api, headers: dict[str, str], status: int
) -> None:
    client, _ = signed_in(api)
    body = {"name": "x", "rights": ["read"]}

    answer = client.post("/api/v1/tokens", json=body, headers=headers)

    assert answer.status_code == status
    assert client.get("/api/v1/me", headers=headers).status_code == 200, "reading is always fine"
    assert count(api, Token) == (1 if status == 201 else 0)


def test_nobody_is_signed_in_by_another_sites_page(api: Api) -> None:
    signed_in(api)
    answer = api.client(Origin="https://evil.example").post(
        "/api/v1/sessions", json={"email": "erika@example.org", "password": "correct horse"}
    )
    assert answer.status_code == 403
    assert "Set-Cookie" not in answer.headers


def test_changing_the_password_ends_every_session(api: Api) -> None:
    client, _ = signed_in(api, Origin=ORIGIN)
    body = {"old_password": "correct horse", "new_password": "battery staple"}
    assert client.put("/api/v1/me/password", json=body).status_code == 204
    assert client.get("/api/v1/me").status_code == 401


def test_a_wrong_credential_is_not_made_up_for_by_another(api: Api) -> None:
    client, _ = signed_in(api)
    assert client.get("/api/v1/me", headers={"Authorization": "Bearer x"}).status_code == 401
    assert client.get("/api/v1/me", headers={"Authorization": "Basic eDp5"}).status_code == 401
    assert client.get("/api/v1/me", headers={"X-API-KEY": ""}).status_code == 401
    assert client.get("/api/v1/me", headers={"X-API-KEY": api.token()}).json()["kind"] == "token"


def test_the_last_use_of_a_token_is_noted_once_a_minute(api: Api) -> None:
    """A2: a token lists its last use."""
    client = api.owner()

    def used() -> Any:
        return client.get("/api/v1/tokens").json()["items"][0]

    assert used()["used_from"] == "192.0.2.7"
    first = used()["used_at"]
    api.world.advance(seconds=30)
    assert used()["used_at"] == first
    api.world.advance(seconds=31)
    assert used()["used_at"] != first


# Rate limits


@pytest.mark.parametrize(
    ("limits", "of"),
    [
        (replace(UNLIMITED, address_rate=1.0, address_burst=3), "address"),
        (replace(UNLIMITED, token_rate=1.0, token_burst=3), "token"),
    ],
)
def test_who_asks_too_often_is_told_when_to_come_again(api: Api, limits: Any, of: str) -> None:
    """A6: requests are rate-limited per token and per address."""
    seconds = [1000.0]
    limited = Api(api.world, limits=limits, monotonic=lambda: seconds[0])
    secret, other = api.token(), api.token()
    try:
        here = limited.client(secret)
        statuses = [here.get("/api/v1/me").status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = here.get("/api/v1/me")
        assert refused.json()["code"] == "too_many_requests"
        assert refused.json()["retryable"] is True
        assert refused.headers["Retry-After"] == "1"

        elsewhere = limited.client(secret, address="198.51.100.1")
        another = limited.client(other)
        assert elsewhere.get("/api/v1/me").status_code == (200 if of == "address" else 429)
        assert another.get("/api/v1/me").status_code == (429 if of == "address" else 200)
        assert limited.client().get("/health").status_code == 200, "health is never refused"

        seconds[0] += 1
        assert here.get("/api/v1/me").status_code == 200
    finally:
        limited.close()


def test_failed_sign_ins_back_off(api: Api) -> None:
    """A6: failed sign-ins back off."""
    client = api.client()
    body = {"email": "nobody@example.org", "password": "wrong password"}
    statuses = [client.post("/api/v1/sessions", json=body).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]


# Operations


def test_ready_says_what_is_missing(api: Api) -> None:
    """I3: health and readiness."""
    assert api.client().get("/ready").json() == {"status": "ready", "replica_id": "replica-1"}
    stale = Api(api.world, schema_problem=lambda database: "The database lacks 2 steps.")
    try:
        answer = stale.client().get("/ready")
        assert (answer.status_code, answer.json()["detail"]) == (503, "The database lacks 2 steps.")
        assert stale.client().get("/health").status_code == 200
    finally:
        stale.close()


def test_metrics_are_the_operators(api: Api) -> None:
    """S8: Prometheus metrics."""
    answer = api.owner(api.world.operator_account).get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "# TYPE holdfast_jobs gauge" in answer.text
