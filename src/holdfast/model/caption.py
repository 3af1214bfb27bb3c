"""Captions: what people write about things: descriptions, reasons, labels.

Pure checks. Invariant: what passes can be kept in every database and written as JSON: text
without zero bytes and lone surrogates, of a bounded length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from holdfast.errors import UsageError

MAX_DESCRIPTION_LENGTH: Final = 2000
MAX_LABELS: Final = 64
MAX_LABEL_VALUE_LENGTH: Final = 255

_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._/-]{0,61}[A-Za-z0-9])?")


def check_text(text: str, what: str, *, longest: int = MAX_DESCRIPTION_LENGTH) -> str:
    """Return `text` unchanged, or raise UsageError that names it as `what`."""
    if len(text) > longest:
        raise UsageError(f"The {what} has {len(text)} characters; shorten it to {longest}.")
    if "\0" in text:
        raise UsageError(f"The {what} contains a zero byte; remove it.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"The {what} contains half of a character (a lone surrogate); write it as UTF-8."
        ) from None
    return text


def check_labels(labels: Mapping[str, object]) -> dict[str, str]:
    """The labels as a new dictionary, or UsageError that says which one is wrong."""
    if len(labels) > MAX_LABELS:
        raise UsageError(f"There are {len(labels)} labels; at most {MAX_LABELS} are possible.")
    checked = {}
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise UsageError(
                f"{key!r} cannot be the key of a label; use 1 to 63 letters A-Z and a-z, digits, "
                "space, '.', '_', '/' and '-', with a letter or digit at both ends."
            )
        if not isinstance(value, str):
            raise UsageError(f"The value of the label {key} is not text; write it in quotes.")
        checked[key] = check_text(value, f"label {key}", longest=MAX_LABEL_VALUE_LENGTH)
    return checked
