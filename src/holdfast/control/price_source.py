"""The price source: where prices are read from, hourly. The one part of money that does I/O.

A price list is a file or an address; docs/reference/prices.md says how it is written. The
reading happens outside of any transaction. A list that cannot be read, or has one entry
that cannot, changes nothing: the last prices stay, and the operators get an event.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from holdfast.control import events, prices
from holdfast.control.database import Database, Tx
from holdfast.control.tables import Account, Leadership
from holdfast.errors import DatabaseUnavailable, HoldfastError, ServerUnavailable, UsageError

READ_EVERY: Final = timedelta(hours=1)
UNREADABLE: Final = "prices.unreadable"

_TURN: Final = "price-source"
_LARGEST_BYTES: Final = 4 << 20
_TIMEOUT_SECONDS: Final = 20.0
_LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)


def refresh_due(database: Database, source: str | None, *, now: datetime) -> int:
    """Read the price list if an hour has passed since the last time; returns new prices.

    Without a source a region that has no price at all gets the built-in ones, at any time.
    Of several replicas one reads. A failure is an event and never an error here.
    """
    if source is None:
        with database.read() as tx:
            if not prices.regions_without(tx):
                return 0
        return database.transact(
            lambda tx: prices.refresh(
                tx, prices.DEFAULT_PRICES, origin="built-in", now=now, only_missing=True
            )
        )
    if not _takes_turn(database, now):
        return 0
    try:
        document = read(source)
        return database.transact(
            lambda tx: prices.refresh(tx, document, origin=shown(source), now=now)
        )
    except DatabaseUnavailable:
        raise
    except HoldfastError as error:
        message = error.message
        database.transact(lambda tx: _tell_operators(tx, source, message, now))
        return 0


def read(source: str) -> dict[str, Any]:
    """Read a price list; numbers in it become Decimals as they are written."""
    content = _fetched(source) if source.startswith(("http://", "https://")) else _loaded(source)
    try:
        document = json.loads(content, parse_float=Decimal)
    except ValueError as error:
        raise UsageError(f"The price list {shown(source)} is no JSON: {error}.") from error
    if not isinstance(document, dict):
        raise UsageError(f"The price list {shown(source)} is not a JSON object.")
    return document


def shown(source: str) -> str:
    """A source without the secrets that an address may carry."""
    if not source.startswith(("http://", "https://")):
        return source
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _takes_turn(database: Database, now: datetime) -> bool:
    """Whether the hour has passed and this replica is the one that reads."""

    def take(tx: Tx) -> bool:
        if tx.get(Leadership, _TURN) is None:
            tx.add(Leadership(name=_TURN, holder=_TURN, until=_LONG_AGO))
            tx.flush()
        turn = update(Leadership).where(Leadership.name == _TURN, Leadership.until <= now)
        taken = turn.values(until=now + READ_EVERY).returning(Leadership.name)
        return tx.scalars(taken).first() is not None

    try:
        return database.transact(take)
    except IntegrityError:  # the row's first writer was another replica
        return False


def _loaded(source: str) -> bytes:
    path = unquote(urlsplit(source).path) if source.startswith("file://") else source
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > _LARGEST_BYTES:
                raise UsageError(
                    f"The price list {shown(source)} is larger than {_LARGEST_BYTES} bytes."
                )
            return file.read()
    except OSError as error:
        raise UsageError(
            f"The price list {shown(source)} cannot be read: {error.strerror}."
        ) from error


def _fetched(source: str) -> bytes:
    import httpx

    content = bytearray()
    try:
        with httpx.stream("GET", source, timeout=_TIMEOUT_SECONDS) as answer:
            if answer.status_code != httpx.codes.OK:
                raise ServerUnavailable(
                    f"The price list {shown(source)} was answered with status {answer.status_code}."
                )
            for part in answer.iter_bytes():
                content += part
                if len(content) > _LARGEST_BYTES:
                    raise UsageError(
                        f"The price list {shown(source)} is larger than {_LARGEST_BYTES} bytes."
                    )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerUnavailable(
            f"The price list {shown(source)} was not answered: {error}."
        ) from error
    return bytes(content)


def _tell_operators(tx: Tx, source: str, message: str, now: datetime) -> None:
    for account_id in tx.scalars(select(Account.id).where(Account.is_operator)):
        events.emit(
            tx,
            account_id,
            UNREADABLE,
            "price_source",
            shown(source)[:120],
            f"{message} The prices that were read last stay valid.",
            now=now,
        )
