"""The control plane's side of a task's mailbox, in this process: it hears, orders, and stops."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.agent.mailbox import Mailbox


class _LeavableMailbox(Mailbox):
    """One whose user may be interrupted while it waits, as SIGTERM does it in a child."""

    interrupted = False

    def wait(self, timeout_seconds: float) -> bool:
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        return super().wait(timeout_seconds)


class TaskDesk:
    """Hears every message at once, unless it is deaf; `orders` are given with each answer."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.orders: dict[str, Any] = {
            "abort": False,
            "snapshots": [],
            "periodic": None,
            "previews": [],
        }
        self.deaf = False
        self.mailbox = _LeavableMailbox(self._say)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _say(self, document: Mapping[str, Any]) -> None:
        with self._changed:
            self.messages.append(json.loads(json.dumps(document["message"])))
            self._changed.notify_all()

    def _answer(self) -> None:
        while not self._closing.wait(0.02):
            with self._changed:
                heard = self.messages[-1]["seq"] if self.messages else 0
                orders = json.loads(json.dumps(self.orders))
            if not self.deaf:
                self.mailbox.take({"heard": heard, "orders": orders})

    def forsake(self) -> None:
        """Interrupt the attempt, as an agent does that ends; it must have told everything."""
        self.mailbox.take({"stop": "leaving"})
        self.mailbox.interrupted = True

    # What a test asks

    def wait(self, what: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while not what():
                left = deadline - time.monotonic()
                assert left > 0, f"waited in vain; {self.messages}"
                self._changed.wait(min(left, 0.1))

    def of(self, kind: str) -> list[dict[str, Any]]:
        with self._changed:
            return [each for each in self.messages if each["type"] == kind]

    @property
    def states(self) -> list[str]:
        return [each["state"] for each in self.of("state")]

    def output(self, stream: str = "stdout") -> bytes:
        return joined(self.of("output"), stream)

    def ends(self, snapshot_id: str | None = None) -> list[dict[str, Any]]:
        """Messages that a snapshot has ended, of one snapshot or all."""
        return [
            each
            for each in self.of("snapshot")
            if each["status"] in ("success", "failure", "skipped")
            and snapshot_id in (None, each["snapshot_id"])
        ]


def joined(messages: list[dict[str, Any]], stream: str) -> bytes:
    """Output as the control plane puts it together: it has no gaps, and may come twice."""
    found = bytearray()
    for each in messages:
        if each["type"] == "output" and each["stream"] == stream:
            assert each["offset"] <= len(found), "a gap"
            data = base64.b64decode(each["data"])
            found += data[len(found) - each["offset"] :]
    return bytes(found)


def manual(number: int, **more: Any) -> dict[str, Any]:
    """An order for a manual snapshot."""
    return {
        "task_snapshot_id": f"ts-{number}",
        "snapshot_id": f"s-{number}",
        "whitelist": None,
        "blacklist": None,
        "triggered_at": f"2026-03-01T12:00:{number:02}+00:00",
        **more,
    }


def task_spec(command: str, **more: Any) -> dict[str, Any]:
    """The spec of a job of kind `task`."""
    return {
        "task_id": "0b7e6c1e-93a8-4a52-9d0f-0d6a5e3f2b11",
        "instance_id": "i-1",
        "number": 0,
        "instances": 1,
        "name": "train",
        "profile": "batch",
        "constants": {"COMMAND": command},
        "inputs": [],
        "source_id": "source-1",
        "starts_from": None,
        "snapshot": {"whitelist": None, "blacklist": None},
        "results": {
            "snapshot_id": None,
            "whitelist": None,
            "blacklist": None,
            "on_cancel": False,
        },
        "time_limit_seconds": None,
        "grace_seconds": 5,
        **more,
    }
