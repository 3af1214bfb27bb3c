"""Stores as requests use them: opened once for each location and options, and shared.

A request waits for a store that is away only for a few attempts, as its client repeats it.
What writers that were killed have left in local directories is removed by whoever asks for
that now and then: those who prune through a gateway do not see it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import orjson

from holdfast.errors import HoldfastError, UsageError
from holdfast.gateway.leases import Leases
from holdfast.store.local import LocalStore
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore

_log = logging.getLogger(__name__)

_KEPT = 64
_IDLE_SECONDS = 600.0
_ATTEMPTS = 3
_TIDIED_EVERY_SECONDS = 24 * 3600.0
_FIELDS = frozenset(field.name for field in fields(StoreOptions))


class Stores:
    """Opens and shares stores; thread-safe."""

    def __init__(self) -> None:
        self._leases: Leases[ObjectStore] = Leases(
            lambda store: store.close(), limit=_KEPT, idle_seconds=_IDLE_SECONDS
        )
        self._lock = threading.Lock()
        self._tidied: dict[str, float | None] = {}

    @contextmanager
    def use(self, location: str, options: Mapping[str, Any]) -> Iterator[ObjectStore]:
        """Hold the store at `location`; `options` are fields of `StoreOptions`."""
        key = (location, orjson.dumps(dict(options), option=orjson.OPT_SORT_KEYS))
        with self._leases.use(key, lambda: self._open(location, options)) as store:
            yield store

    def _open(self, location: str, options: Mapping[str, Any]) -> ObjectStore:
        store = _open(location, options)
        if isinstance(store, LocalStore):
            with self._lock:
                self._tidied.setdefault(location, None)
        return store

    def remove_stale_temporaries(self) -> int:
        """Once a day, in each local directory that was used: what killed writers have left there.

        Returns how many files those were. It looks at every name, which may take a while.
        """
        now, removed = time.monotonic(), 0
        with self._lock:
            due = [
                location
                for location, at in self._tidied.items()
                if at is None or now - at >= _TIDIED_EVERY_SECONDS
            ]
            self._tidied.update(dict.fromkeys(due, now))
        for location in due:
            try:
                with self.use(location, {}) as store:
                    if isinstance(store, LocalStore):
                        removed += store.remove_stale_temporaries()
            except HoldfastError as error:
                _log.warning("%s is tidied up tomorrow: %s", location, error.message)
        return removed

    def close(self) -> None:
        self._leases.close()


def _open(location: str, options: Mapping[str, Any]) -> ObjectStore:
    unknown = sorted(set(options) - _FIELDS)
    if unknown:
        raise UsageError(f"A store has no option {', '.join(unknown)}; correct the region's.")
    return open_store(
        location,
        StoreOptions(**{"attempts": _ATTEMPTS, **options}),
        report_retry=lambda retry: _log.warning(
            "%s %s: attempt %d failed: %s", retry.method, retry.key, retry.attempt, retry.error
        ),
        report_finding=lambda finding: _log.warning("%s: %s", finding.code, finding.message),
    )
