"""What a task and the control plane say to each other: the mailbox, the outbox, the room."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from holdfast.agent.mailbox import LEAVING, Mailbox
from holdfast.agent.outbox import MOST_BYTES, MOST_MESSAGES, Outbox
from holdfast.agent.rate import Rate
from holdfast.agent.room import Room

# The mailbox


def mailbox() -> tuple[Mailbox, list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []

    def say(document: Mapping[str, Any]) -> None:
        said.append(dict(document))

    return Mailbox(say), said


def test_messages_are_numbered_and_unheard_until_they_are_heard() -> None:
    box, said = mailbox()
    assert [box.send({"type": "state"}), box.send({"type": "output"})] == [1, 2]
    assert [each["message"]["seq"] for each in said] == [1, 2]
    assert [each["type"] for each in box.unheard()] == ["state", "output"]
    box.take({"lease_seconds": 60, "heard": 1, "orders": {"abort": False}})
    assert box.is_heard(1)
    assert not box.is_heard(2)
    assert [each["seq"] for each in box.unheard()] == [2]
    box.take({"heard": 0})
    assert box.is_heard(1), "what was heard stays heard"
    assert not box.wait_until_heard(0)
    box.take({"heard": 2})
    assert box.wait_until_heard(0)


def test_orders_are_the_latest_and_stay_where_none_come() -> None:
    box, _ = mailbox()
    assert box.orders() == {}
    box.take({"heard": 0, "orders": {"abort": False}})
    box.take({"heard": 0, "orders": None})
    assert box.orders() == {"abort": False}
    box.take({"heard": 0, "orders": {"abort": True}})
    assert box.orders() == {"abort": True}


def test_waiting_ends_with_news_and_news_are_new_once() -> None:
    box, _ = mailbox()
    assert not box.wait(0)
    threading.Timer(0.01, box.take, [{"stop": LEAVING}]).start()
    assert box.wait(30)
    assert box.stop == LEAVING
    assert not box.wait(0)


# The outbox


def filled(*sizes: int) -> Outbox:
    box = Outbox()
    for number, size in enumerate(sizes, 1):
        box.put({"seq": number, "data": "x" * size})
    return box


def numbers(batch: list[dict[str, Any]]) -> list[int]:
    return [each["seq"] for each in batch]


def test_a_batch_is_what_one_report_may_hold() -> None:
    box = filled(*([1] * (MOST_MESSAGES + 5)))
    first = box.batch()
    assert numbers(first) == list(range(1, MOST_MESSAGES + 1))
    assert box.is_full
    assert numbers(box.batch()) == numbers(first), "until it is settled it is the same"
    box.settle(first)
    assert (box.heard, len(box.batch()), box.is_full) == (MOST_MESSAGES, 5, False)
    large = filled(MOST_BYTES // 2, MOST_BYTES // 2, 10)
    assert numbers(large.batch()) == [1]
    whole = filled(MOST_BYTES * 2, 1)
    assert numbers(whole.batch()) == [1], "one goes alone, however large"


def test_of_refused_messages_only_the_bad_one_is_lost() -> None:
    box = filled(1, 1, 1)
    assert box.refuse(box.batch()) is None
    heard, lost = [], []
    while batch := box.batch():
        assert len(batch) == 1
        if batch[0]["seq"] == 2:
            lost.append(box.refuse(batch))
        else:
            box.settle(batch)
            heard += numbers(batch)
    assert heard == [1, 3]
    assert [each["seq"] for each in lost if each is not None] == [2]
    assert box.heard == 3
    box.put({"seq": 4})
    box.put({"seq": 5})
    assert numbers(box.batch()) == [4, 5], "after that they go together again"


# Room, and rate


def test_tasks_and_jobs_have_room_of_their_own() -> None:
    whole = Room(2, 1)
    assert whole.left_by(["task", "backup"]) == Room(1, 0)
    assert whole.left_by(["task", "backup", "verify"]) == Room(0, 0)
    assert not whole.left_by(["task", "backup", "verify"])
    assert whole.left_by(["task"] * 3) == Room(2, 0), "the slots may have become fewer"
    assert Room(1, 0).lacks_some(whole)
    assert not Room(1, 0).lacks_some(Room(2, 0)), "a host without tasks never has room for any"
    assert Room(0, 1).as_dict() == {"jobs": 0, "tasks": 1}


def test_a_rate_is_of_the_last_while() -> None:
    now = 0.0
    rate = Rate(lambda: now)
    assert rate.of({"bytes_done": 0, "bytes_total": 1000}) == {}
    now = 2.0
    assert rate.of({"bytes_done": 200, "bytes_total": 1000}) == {
        "bytes_per_second": 100,
        "seconds_left": 8,
    }
    now = 100.0
    rate.of({"bytes_done": 200, "bytes_total": 1000})
    now = 101.0
    rate.forget()
    assert rate.of({"bytes_done": 5}) == {}
