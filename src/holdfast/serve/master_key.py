"""Rotating the master key of a server; it may run meanwhile, as it follows the file."""

from __future__ import annotations

import os
from dataclasses import dataclass

from holdfast.control.database import Database
from holdfast.control.sealing import reseal, rotate
from holdfast.control.sealing import retire as drop_older
from holdfast.errors import NotFound
from holdfast.serve.settings import Settings


@dataclass(frozen=True, slots=True)
class Rotation:
    """What was done: the new key's name, how many secrets it seals, keys in the file now."""

    key_id: str
    resealed: int
    keys: int


def rotate_master_key(settings: Settings, *, retire: bool = False) -> Rotation:
    """Put a new key into the file and seal every secret with it."""
    if not os.path.exists(settings.master_key):
        raise NotFound(
            f"There is no master key file at {settings.master_key}; is this the data directory of "
            "a server? Give --data-directory or --settings."
        )
    database = Database(settings.database)
    try:
        keys = rotate(settings.master_key)
        resealed = database.transact(lambda tx: reseal(tx, keys))
        if retire:
            keys = database.transact(lambda tx: drop_older(tx, settings.master_key))
    finally:
        database.close()
    return Rotation(keys.newest_id, resealed, len(keys.ids))
