"""Drops what is written, so that a dry run goes through all the motions and stores nothing.

It wraps any store. Reading is the inner store's; what was dropped cannot be read back.
"""

from __future__ import annotations

from holdfast.store.protocol import Buffer
from holdfast.store.wrapped import WrappedStore


class DiscardingStore(WrappedStore):
    """An `ObjectStore` whose `create` and `delete` succeed and change nothing."""

    def create(self, key: str, data: Buffer) -> None:
        """Take the object and forget it."""

    def delete(self, key: str) -> None:
        """Leave the object where it is."""
