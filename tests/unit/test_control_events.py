"""Events and webhooks: written with what happened, seen in order, by the account only."""

from __future__ import annotations

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import events, webhooks
from holdfast.control.sealing import context_of
from holdfast.control.tables import Account, AuditEntry, Delivery, Event, Webhook
from holdfast.errors import Forbidden, NotFound, NotReady, UsageError

HOOK = "https://hooks.example.org/holdfast?team=7"


def emit(world: World, kind: str = "host.silent", account: Account | None = None) -> Event:
    account_id = (account or world.account).id
    with world.database.write() as tx:
        return events.emit(tx, account_id, kind, "host", "some host", "It is so.", now=world.now)


def add_hook(
    world: World, url: str = HOOK, kinds: tuple[str, ...] = (), account: Account | None = None
) -> tuple[Webhook, str]:
    with world.database.write() as tx:
        return webhooks.create(
            tx, world.principal(account), url=url, kinds=kinds, keys=world.keys, now=world.now
        )


def waiting(world: World) -> list[tuple[int, str]]:
    with world.database.read() as tx:
        found = tx.execute(
            select(Delivery.event_id, Delivery.webhook_id)
            .where(Delivery.state == "waiting")
            .order_by(Delivery.id)
        )
        return [(event_id, webhook_id) for event_id, webhook_id in found]


def test_events_are_read_in_order_by_their_account(world: World) -> None:
    """S7, A4."""
    stranger = world.add_account("Stranger")
    mine = [emit(world, kind) for kind in ("host.silent", "host.returned", "host.silent")]
    emit(world, account=stranger)
    who = world.principal()
    with world.database.read() as tx:
        assert [each.id for each in events.events(tx, who)] == [each.id for each in mine]
        later = events.events(tx, who, after_id=mine[0].id, limit=1)
        assert [each.id for each in later] == [mine[1].id]
        silent = events.events(tx, who, kinds=["host.silent"])
        assert [each.id for each in silent] == [mine[0].id, mine[2].id]
        assert events.newest_id(tx, who) == mine[2].id
        assert events.newest_id(tx, world.operator()) == 0
        for limit in (0, 501):
            with pytest.raises(UsageError):
                events.events(tx, who, limit=limit)
        for after_id in (2**63, -1):
            with pytest.raises(UsageError):
                events.events(tx, who, after_id=after_id)
        with pytest.raises(Forbidden):
            events.events(tx, world.principal(resources=frozenset({"x"})))


@pytest.mark.parametrize("looked_at", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("limit", [1, 2, 10])
def test_s7_pages_of_rare_kinds_miss_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, looked_at: int, limit: int
) -> None:
    monkeypatch.setattr(events, "LOOKED_AT", looked_at)
    kinds = ["host.silent", *["host.returned"] * 3, "host.silent", "host.returned"]
    mine = [emit(world, kind) for kind in kinds]
    found, after_id = [], None
    while True:
        with world.database.read() as tx:
            one = events.listed(
                tx, world.principal(), after_id=after_id, limit=limit, kinds=["host.silent"]
            )
        found += one.items
        if one.next_cursor is None:
            break
        assert int(one.next_cursor) > (after_id or 0)
        after_id = int(one.next_cursor)
    assert [each.id for each in found] == [mine[0].id, mine[4].id]


def test_what_is_rolled_back_was_never_said(world: World) -> None:
    add_hook(world)
    with world.database.write() as tx:
        events.emit(tx, world.account.id, "host.silent", "host", "x", "No.", now=world.now)
        tx.rollback()
    assert waiting(world) == []
    with world.database.read() as tx:
        assert events.events(tx, world.principal()) == []


def test_an_event_goes_to_the_webhooks_that_want_it(world: World) -> None:
    every, _ = add_hook(world)
    some, _ = add_hook(world, kinds=("snapshot.failed", "host.silent"))
    off, _ = add_hook(world)
    gone, _ = add_hook(world)
    add_hook(world, account=world.operator_account)
    with world.database.write() as tx:
        webhooks.edit(tx, world.principal(), off.id, active=False, now=world.now)
        webhooks.remove(tx, world.principal(), gone.id, now=world.now)
    first, second = emit(world), emit(world, "host.returned")
    assert sorted(waiting(world)) == sorted(
        [(first.id, every.id), (first.id, some.id), (second.id, every.id)]
    )


def test_a_secret_is_shown_once_and_kept_sealed(world: World) -> None:
    hook, secret = add_hook(world)
    assert secret.startswith("whsec_")
    assert len(secret) > 40
    kept = world.again(hook).sealed_secret
    assert secret not in kept
    assert world.keys.unseal(kept, context_of(Webhook, hook.id)) == secret.encode()
    with world.database.read() as tx:
        for entry in tx.scalars(select(AuditEntry)):
            assert secret not in str(entry.after)
    _, nothing = add_hook(world, "mailto:ops@example.org")
    assert nothing == ""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.org/",
        "https://",
        "https:///path",
        "//example.org",
        "https://user:pass@example.org/",
        "https://user@example.org/",
        "https://example.org/#here",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://[::1",
        "https://exa mple.org/",
        "https://example.org/\n",
        "https://bücher.example/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "mailto:",
        "mailto:a@example.org,b@example.org",
        "mailto:a@example.org?bcc=b@example.org",
        "mailto:a@example.org\nBcc: b@example.org",
        "https://example.org/" + "a" * 2000,
    ],
)
def test_addresses_that_are_refused(world: World, url: str) -> None:
    with pytest.raises(UsageError):
        add_hook(world, url)


@pytest.mark.parametrize(
    "url",
    [HOOK, "http://example.org:8080", "https://[2001:db8::1]:8443/x", "mailto:o.p+s@example.org"],
)
def test_addresses_that_are_taken(world: World, url: str) -> None:
    assert add_hook(world, url)[0].url == url


def test_webhooks_are_the_accounts_own_and_administered(world: World) -> None:
    """A2, A4, A5."""
    hook, _ = add_hook(world)
    with world.database.write() as tx:
        stranger = world.operator()
        for act in (webhooks.edit, webhooks.remove, webhooks.test):
            with pytest.raises(NotFound):
                act(tx, stranger, hook.id, now=world.now)
            with pytest.raises(Forbidden):
                act(tx, world.principal(rights=["read", "create"]), hook.id, now=world.now)
        with pytest.raises(NotFound):
            webhooks.get(tx, stranger, "\x00")
        with pytest.raises(UsageError):
            webhooks.edit(tx, world.principal(), hook.id, kinds=["host.dancing"], now=world.now)
        changed = webhooks.edit(
            tx, world.principal(), hook.id, url="mailto:a@example.org", kinds=[], now=world.now
        )
        assert changed.url == "mailto:a@example.org"
        listed = webhooks.webhooks(tx, world.principal()).items
        assert [each.id for each in listed] == [hook.id]
        webhooks.remove(tx, world.principal(), hook.id, now=world.now)
        assert webhooks.webhooks(tx, world.principal()).items == []
        with pytest.raises(NotFound):
            webhooks.get(tx, world.principal(), hook.id)
    with world.database.read() as tx:
        actions = tx.scalars(select(AuditEntry.action).order_by(AuditEntry.id)).all()
    assert actions == ["webhook.create", "webhook.edit", "webhook.remove"]


def test_a_test_goes_to_one_webhook(world: World) -> None:
    hook, _ = add_hook(world, kinds=("snapshot.failed",))
    add_hook(world)
    with world.database.write() as tx:
        event = webhooks.test(tx, world.principal(), hook.id, now=world.now)
        assert event.kind == "webhook.test"
        webhooks.edit(tx, world.principal(), hook.id, active=False, now=world.now)
        with pytest.raises(NotReady):
            webhooks.test(tx, world.principal(), hook.id, now=world.now)
    assert waiting(world) == [(event.id, hook.id)]
    with world.database.read() as tx:
        kept = webhooks.deliveries(tx, world.principal(), hook.id).items
    assert [each.event_id for each in kept] == [event.id]


def test_there_is_an_end_to_webhooks(world: World) -> None:
    for _ in range(webhooks.MAX_WEBHOOKS):
        world.insert(
            Webhook(account_id=world.account.id, url=HOOK, sealed_secret="x", created_at=world.now)
        )
    with pytest.raises(UsageError):
        add_hook(world)
