"""Deliveries: signed, tried again, given up in the end, and never sent by two at once."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from control_world import World
from sqlalchemy import select

from holdfast.control import events, webhooks
from holdfast.control.courier import Answer, Parcel
from holdfast.control.delivery import (
    GIVE_UP_AFTER,
    PARCELS_PER_WEBHOOK,
    PAUSES_SECONDS,
    deliver,
    pause_after,
    signature,
)
from holdfast.control.tables import Delivery, Webhook

TAKEN = Answer(taken=True, text="204 No Content")
REFUSED = Answer(taken=False, text="503 Service Unavailable")


class Receiver:
    """The other side: keeps what came, and answers as it was told."""

    def __init__(self, answer: Answer = TAKEN) -> None:
        self.answer = answer
        self.came: list[Parcel] = []
        self._lock = threading.Lock()

    def __call__(self, parcel: Parcel) -> Answer:
        with self._lock:
            self.came.append(parcel)
        return self.answer


def add_hook(world: World, url: str = "https://example.org/hook") -> tuple[Webhook, str]:
    with world.database.write() as tx:
        return webhooks.create(tx, world.principal(), url=url, keys=world.keys, now=world.now)


def emit(world: World, number: int = 1) -> None:
    with world.database.write() as tx:
        for each in range(number):
            events.emit(
                tx,
                world.account.id,
                "snapshot.failed",
                "snapshot",
                f"snapshot {each}",
                "It failed.",
                now=world.now,
                data={"error_code": "source_vanished"},
                correlation_id="c",
            )


def send(world: World, by: Callable[[Parcel], Answer]) -> int:
    return deliver(world.database, world.keys, now=world.now, send=by)


def only(world: World) -> Delivery:
    with world.database.read() as tx:
        return tx.scalars(select(Delivery)).one()


def test_a_parcel_says_what_happened_and_who_says_so(world: World) -> None:
    """S7: signed."""
    _, secret = add_hook(world)
    emit(world)
    receiver = Receiver()
    assert [send(world, receiver), send(world, receiver)] == [1, 0]
    (parcel,) = receiver.came
    assert parcel.url == "https://example.org/hook"
    said = json.loads(parcel.body)
    assert said["kind"] == "snapshot.failed"
    assert said["subject"] == {"kind": "snapshot", "id": "snapshot 0"}
    assert said["data"] == {"error_code": "source_vanished"}
    assert (said["account_id"], said["correlation_id"]) == (world.account.id, "c")
    parts = dict(each.split("=") for each in parcel.headers["Holdfast-Signature"].split(","))
    assert int(parts["t"]) == int(world.now.timestamp())
    expected = hmac.new(
        secret.encode(), parts["t"].encode() + b"." + parcel.body, hashlib.sha256
    ).hexdigest()
    assert parts["v1"] == expected
    assert parcel.headers["Holdfast-Delivery"] == str(only(world).id)
    done = only(world)
    assert (done.state, done.delivered_at, done.answer) == ("delivered", world.now, TAKEN.text)
    assert signature(b"other", parcel.body, world.now) != parcel.headers["Holdfast-Signature"]


def test_what_is_not_taken_comes_again_with_growing_pauses_up_to_a_day(world: World) -> None:
    """S7: retried."""
    add_hook(world)
    emit(world)
    begun, receiver = world.now, Receiver(REFUSED)
    while only(world).state == "waiting":
        tried = world.now
        assert send(world, receiver) == 1
        assert send(world, receiver) == 0
        waiting = only(world)
        assert waiting.not_before == tried + pause_after(waiting.attempt)
        world.now = waiting.not_before
    given_up = only(world)
    assert given_up.state == "failed"
    assert given_up.answer == REFUSED.text
    assert len(receiver.came) > len(PAUSES_SECONDS)
    assert GIVE_UP_AFTER - timedelta(hours=4) <= tried - begun <= GIVE_UP_AFTER
    assert send(world, receiver) == 0
    assert list(PAUSES_SECONDS) == sorted(set(PAUSES_SECONDS))


def test_a_later_attempt_is_signed_anew(world: World) -> None:
    add_hook(world)
    emit(world)
    receiver = Receiver(REFUSED)
    send(world, receiver)
    world.advance(minutes=1)
    receiver.answer = TAKEN
    send(world, receiver)
    first, second = (each.headers["Holdfast-Signature"] for each in receiver.came)
    assert first != second
    assert receiver.came[0].body == receiver.came[1].body
    assert only(world).state == "delivered"


def test_a_sender_that_died_is_followed_by_another(world: World) -> None:
    add_hook(world)
    emit(world)

    def die(parcel: Parcel) -> Answer:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send(world, die)
    receiver = Receiver()
    assert send(world, receiver) == 0
    world.advance(minutes=6)
    assert send(world, receiver) == 1
    assert only(world).state == "delivered"


def test_nothing_is_sent_by_two_at_once(world: World) -> None:
    for number in range(8):
        add_hook(world, f"https://example.org/{number}")
    emit(world, 2)
    receiver = Receiver()
    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(lambda _: send(world, receiver), range(4)))
    while send(world, receiver):
        pass
    assert sum(counts) <= 16
    numbers = [each.headers["Holdfast-Delivery"] for each in receiver.came]
    assert len(numbers) == len(set(numbers)) == 16


def test_one_slow_webhook_does_not_keep_others_waiting(world: World) -> None:
    slow, _ = add_hook(world, "https://slow.example.org/")
    emit(world, 60)
    quick, _ = add_hook(world, "https://quick.example.org/")
    emit(world)
    receiver = Receiver(REFUSED)
    send(world, receiver)
    urls = [each.url for each in receiver.came]
    assert urls.count(slow.url) == PARCELS_PER_WEBHOOK
    assert quick.url in urls


def test_nothing_goes_to_a_webhook_that_is_off_or_gone(world: World) -> None:
    off, gone = add_hook(world)[0], add_hook(world)[0]
    emit(world)
    with world.database.write() as tx:
        webhooks.edit(tx, world.principal(), off.id, active=False, now=world.now)
        webhooks.remove(tx, world.principal(), gone.id, now=world.now)
    receiver = Receiver()
    assert send(world, receiver) == 0
    assert receiver.came == []
    with world.database.read() as tx:
        assert set(tx.scalars(select(Delivery.state))) == {"failed"}


def test_a_secret_that_does_not_open_is_an_answer(world: World) -> None:
    hook, _ = add_hook(world)
    emit(world)
    world.set(hook, sealed_secret=world.keys.seal(b"x", "elsewhere"))
    receiver = Receiver()
    assert send(world, receiver) == 1
    assert receiver.came == []
    assert only(world).state == "waiting"
    assert "does not open" in only(world).answer
