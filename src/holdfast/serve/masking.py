"""Secrets in logs: whatever looks like one is masked before it is written.

The last line of defence. Code that logs a secret is wrong all the same; but a header in an
exception's text, or an address with a password in it, must not end up on a disk. What is
masked keeps its first characters, so that two log lines can still be told apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "…"
_DEPTH = 6

_SECRETS = (
    # Tokens and webhook secrets have 43 characters; shorter pieces of one count as well.
    (re.compile(r"\b(?:hf|whsec)_[A-Za-z0-9_-]{12,}"), lambda found: found.group()[:7] + MASK),
    (re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?\w+\s+)[^\s'\",}]+"), rf"\g<1>{MASK}"),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)"), rf"\g<1>{MASK}"),
)

_NAMES = frozenset(
    {"password", "secret", "token", "credential", "authorization", "cookie", "master_key"}
)


def masked(text: str) -> str:
    """The text without anything that looks like a secret of ours."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def masked_value(value: Any, depth: int = _DEPTH) -> Any:
    """A value of a log line, at any depth: texts masked, members with a telling name too."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, (bytes, bytearray)):
        return masked(bytes(value).decode("utf-8", "replace"))
    if isinstance(value, (bool, int, float, type(None))):
        return value
    if depth <= 0:
        return MASK
    if isinstance(value, Mapping):
        return {
            name: MASK if each and str(name).lower() in _NAMES else masked_value(each, depth - 1)
            for name, each in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [masked_value(each, depth - 1) for each in value]
    return masked(str(value))
