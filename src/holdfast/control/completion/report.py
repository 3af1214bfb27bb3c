"""A successful job's report, read with suspicion: it comes from a machine that may be hacked.

It checks the form only; whether what is said fits the job is each kind's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from holdfast.errors import UsageError

_MANIFEST_ID: Final = re.compile("[0-9a-f]{64}")
_GREATEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Report:
    """`result` as the agent sent it, and its findings. Readers raise `UsageError`."""

    result: Mapping[str, Any]
    findings: tuple[dict[str, str], ...] = ()

    def number(self, name: str) -> int:
        """A count, or bytes; never negative."""
        return checked_number(self.result.get(name), name)

    def flag(self, name: str) -> bool:
        """True or false; false where nothing was said."""
        value = self.result.get(name, False)
        if not isinstance(value, bool):
            raise UsageError(f"The result's {name} is neither true nor false.")
        return value

    def word(self, name: str, allowed: frozenset[str]) -> str:
        """One word out of `allowed`."""
        value = self.result.get(name)
        if value not in allowed:
            raise UsageError(f"The result's {name} is none of {', '.join(sorted(allowed))}.")
        return str(value)

    def time(self, name: str) -> datetime:
        """An aware time, as ISO 8601 with its offset."""
        try:
            value = datetime.fromisoformat(self.result[name])
        except (KeyError, TypeError, ValueError):
            raise UsageError(f"The result's {name} is no time; write ISO 8601.") from None
        if value.tzinfo is None:
            raise UsageError(f"The result's {name} has no time zone; add one.")
        return value.astimezone(UTC)

    def manifest_id(self, name: str) -> str:
        return checked_manifest_id(self.result.get(name), name)

    def manifest_ids(self, name: str) -> list[str]:
        """A list of ids, each once, in their order."""
        value = self.result.get(name, [])
        if not isinstance(value, list):
            raise UsageError(f"The result's {name} is no list.")
        return list(dict.fromkeys(checked_manifest_id(each, name) for each in value))

    def by_manifest(self, name: str) -> dict[str, Any]:
        """A document with one member for each manifest."""
        value = self.result.get(name, {})
        if not isinstance(value, dict):
            raise UsageError(f"The result's {name} is no object.")
        return {checked_manifest_id(key, name): each for key, each in value.items()}


def checked_number(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _GREATEST:
        raise UsageError(f"The result's {name} is no count; give a whole number from 0 up.")
    return value


def checked_manifest_id(value: object, name: str) -> str:
    if not isinstance(value, str) or not _MANIFEST_ID.fullmatch(value):
        raise UsageError(f"The result's {name} has what is no snapshot id: 64 hexadecimal digits.")
    return value
