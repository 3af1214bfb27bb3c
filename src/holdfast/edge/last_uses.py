"""When each token was used last, written at most once a minute for each of them.

A token that is used a thousand times a second must not cost a thousand writes. Noting is
worth less than the request that it belongs to: where the database refuses, the note is
left out and the request goes on.
"""

from __future__ import annotations

import contextlib
import threading
from datetime import datetime, timedelta
from typing import Final

from holdfast.control import tokens
from holdfast.control.database import Database
from holdfast.errors import DatabaseUnavailable

NOTE_EVERY: Final = timedelta(minutes=1)
_MOST_REMEMBERED: Final = 100_000


class LastUses:
    """What this process has noted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._noted: dict[str, datetime] = {}

    def note(self, database: Database, token_id: str, address: str, now: datetime) -> None:
        """Write down that the token was used, unless that was done a moment ago."""
        with self._lock:
            before = self._noted.get(token_id)
            if before is not None and now - before < NOTE_EVERY:
                return
            if len(self._noted) >= _MOST_REMEMBERED:
                self._noted.clear()
            self._noted[token_id] = now
        with contextlib.suppress(DatabaseUnavailable), database.write() as tx:
            tokens.note_use(tx, token_id, address, now)
