"""Stores as requests use them: opened once for each location and options, and shared.

A request waits for a store that is away only for a few attempts, as its client repeats it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import orjson

from holdfast.errors import UsageError
from holdfast.gateway.leases import Leases
from holdfast.store.location import open_store
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore

_log = logging.getLogger(__name__)

_KEPT = 64
_IDLE_SECONDS = 600.0
_ATTEMPTS = 3
_FIELDS = frozenset(field.name for field in fields(StoreOptions))


class Stores:
    """Opens and shares stores; thread-safe."""

    def __init__(self) -> None:
        self._leases: Leases[ObjectStore] = Leases(
            lambda store: store.close(), limit=_KEPT, idle_seconds=_IDLE_SECONDS
        )

    @contextmanager
    def use(self, location: str, options: Mapping[str, Any]) -> Iterator[ObjectStore]:
        """Hold the store at `location`; `options` are fields of `StoreOptions`."""
        key = (location, orjson.dumps(dict(options), option=orjson.OPT_SORT_KEYS))
        with self._leases.use(key, lambda: _open(location, options)) as store:
            yield store

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
