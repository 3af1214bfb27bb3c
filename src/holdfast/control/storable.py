"""What others send, made into what both databases can keep.

PostgreSQL takes neither NUL nor half a surrogate pair, and file names of Linux may hold what
becomes one. Such characters are replaced and never refused: a log line or the name of a
damaged file must not be what makes a finished backup fail. Too large a document is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from holdfast.errors import UsageError

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


def storable_text(text: str, *, limit: int) -> str:
    """`text` without what cannot be kept, cut to `limit` characters."""
    return _UNSTORABLE.sub(REPLACEMENT, text[:limit])


def storable_document(document: Mapping[str, Any], *, limit_bytes: int) -> dict[str, Any]:
    """A copy that can be kept; `UsageError` where it is no JSON or larger than `limit_bytes`."""
    kept = {_UNSTORABLE.sub(REPLACEMENT, key): _storable(value) for key, value in document.items()}
    try:
        size = len(orjson.dumps(kept))
    except TypeError as error:
        raise UsageError(f"A document that was sent is not JSON: {error}.") from None
    if size > limit_bytes:
        raise UsageError(
            f"A document that was sent has {size:,} bytes; at most {limit_bytes:,} are taken."
        )
    return kept


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub(REPLACEMENT, value)
    if isinstance(value, Mapping):
        return {
            _UNSTORABLE.sub(REPLACEMENT, str(key)): _storable(each) for key, each in value.items()
        }
    if isinstance(value, Sequence):
        return [_storable(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no such number
    return value
