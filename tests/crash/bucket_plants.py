"""How a server is changed before its buckets are struck: its sizes, its death, its mistakes.

Each takes how an attribute is put in the place of another, as those of `control_plants` do.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from control_plants import LATE_SECONDS, Put

from holdfast.control import bodies as body_rows
from holdfast.control.database import Tx
from holdfast.gateway.s3 import bodies, service
from holdfast.gateway.s3.bodies import Bodies, Sweeper
from holdfast.gateway.s3.http_index import HttpBucketIndex

BODY_BYTES = 128 << 10
SWEEP_SECONDS = 0.3
_SURVIVED = 6
"""So many times a step is taken before a server dies at it."""


def workshop(put: Put) -> None:
    """Bodies are small, so that objects have several, and what is due is removed at once."""
    put(bodies, "BODY_BYTES", BODY_BYTES)
    put(service, "BODY_BYTES", BODY_BYTES)
    put(Sweeper.__init__, "__defaults__", (SWEEP_SECONDS,))


# Deaths


def _dies(put: Put, owner: Any, name: str, *, after: bool) -> None:
    """The process ends where a step begins, or when it is done."""
    workshop(put)
    act: Callable[..., Any] = getattr(owner, name)
    lock, left = threading.Lock(), [_SURVIVED]

    def die(*args: Any, **more: Any) -> Any:
        with lock:
            left[0] -= 1
            last = not left[0]
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = act(*args, **more)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    put(owner, name, die)


def dies_before_a_body(put: Put) -> None:
    _dies(put, Bodies, "store", after=False)


def dies_after_a_body(put: Put) -> None:
    _dies(put, Bodies, "store", after=True)


def dies_before_the_row(put: Put) -> None:
    _dies(put, HttpBucketIndex, "put", after=False)


def dies_after_the_row(put: Put) -> None:
    _dies(put, HttpBucketIndex, "put", after=True)


def dies_in_the_row(put: Put) -> None:
    """Within the transaction that makes an object."""
    _dies(put, body_rows, "_add", after=True)


def dies_before_a_whole(put: Put) -> None:
    _few(put)
    _dies(put, HttpBucketIndex, "complete_upload", after=False)


def dies_after_a_whole(put: Put) -> None:
    _few(put)
    _dies(put, HttpBucketIndex, "complete_upload", after=True)


def _few(put: Put) -> None:
    """Uploads in parts are rarer than other writes."""
    global _SURVIVED
    _SURVIVED = 2


# Mistakes


def bodies_are_stored_too_late(put: Put) -> None:
    """An object is there, and said to be stored, before its bytes are."""
    workshop(put)
    store = Bodies.store

    def store_late(self: Bodies, grant: Any, body_id: str, sealed: Any) -> None:
        kept = bytes(sealed)
        threading.Timer(LATE_SECONDS, lambda: store(self, grant, body_id, kept)).start()

    put(Bodies, "store", store_late)


def bodies_in_use_are_removed(put: Put) -> None:
    """Small bodies are due from the moment that they are used."""
    workshop(put)
    count = body_rows._count

    def count_and_forget(body: Any, *args: Any, **more: Any) -> None:
        count(body, *args, **more)
        if body.uses and body.size_bytes < 1000:
            body.uses, body.due_at = 0, more["now"]

    put(body_rows, "_count", count_and_forget)


def replaced_ones_are_counted(put: Put) -> None:
    """A bucket's bytes only grow, also when an object becomes smaller."""
    workshop(put)
    add = body_rows._add

    def add_only(tx: Tx, stored: Any, objects: Any) -> None:
        for each in stored:
            stored[each] = max(0, stored[each])
        add(tx, stored, objects)

    put(body_rows, "_add", add_only)
