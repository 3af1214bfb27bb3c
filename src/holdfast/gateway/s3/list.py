"""Listing: objects and files of views as one sequence of keys, in byte order, page by page.

Pure: what is listed comes from sources. Each gives its keys in order, behind any key that it
is asked for. Python compares text by code points, which is the byte order of UTF-8.

Invariant: pages that follow one another show every key once, whatever prefix, delimiter and
size they have, and jump over what one common prefix stands for.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime

LAST = "\U0010ffff"
"""Behind (nearly) every key with the same beginning."""
_STEPS = 40


@dataclass(frozen=True, slots=True)
class Listed:
    """One key of a source. With `hides` it is none, and hides what views show of that key.

    Of equal keys the one with the highest `rank` counts; objects have the highest. `made_at`
    is of a view: when it was made.
    """

    key: str
    rank: int
    size_bytes: int = 0
    etag: str = ""
    modified_at: datetime | None = None
    hides: datetime | None = None
    made_at: datetime | None = None


Source = Callable[[str], Generator[Listed, None, None]]
"""Gives its keys that are greater than the one it is asked with, in order."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A page. `last` is the key or common prefix that it ends with; the next page begins
    behind that."""

    entries: Sequence[Listed]
    prefixes: Sequence[str]
    truncated: bool
    last: str


def listing(
    sources: Sequence[Source], *, prefix: str, delimiter: str, after: str, limit: int
) -> Listing:
    """The first `limit` keys and common prefixes behind `after`; sources hold only keys with
    `prefix`."""
    entries: list[Listed] = []
    prefixes: list[str] = []
    last = after
    if limit <= 0:
        return Listing((), (), truncated=False, last=after)
    start = after
    skipped = group_of(after, prefix, delimiter) if after else None
    if skipped == after and skipped is not None:
        start = skipped + LAST
    else:
        skipped = None
    while True:
        jump = None
        steps = 0
        with ExitStack() as stack:
            for entry in _merged(sources, start, stack):
                group = group_of(entry.key, prefix, delimiter)
                if group is not None and group == skipped:
                    steps += 1
                    if steps > _STEPS and not entry.key.startswith(group + LAST):
                        jump = group + LAST
                        break
                    continue
                if len(entries) + len(prefixes) == limit:
                    return Listing(entries, prefixes, truncated=True, last=last)
                if group is None:
                    entries.append(entry)
                    last = entry.key
                else:
                    prefixes.append(group)
                    last = skipped = group
                    steps = 0
        if jump is None:
            return Listing(entries, prefixes, truncated=False, last=last)
        start = jump


def group_of(key: str, prefix: str, delimiter: str) -> str | None:
    """The common prefix that stands for a key, where one does."""
    if not delimiter or not key.startswith(prefix):
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]


def _merged(sources: Sequence[Source], start: str, stack: ExitStack) -> Iterator[Listed]:
    """What is seen of all sources behind `start`, in order."""
    streams = [stack.enter_context(closing(source(start))) for source in sources]
    same: list[Listed] = []
    for entry in heapq.merge(*streams, key=lambda each: each.key):
        if same and same[0].key != entry.key:
            found = seen(same)
            if found is not None:
                yield found
            same = []
        same.append(entry)
    found = seen(same) if same else None
    if found is not None:
        yield found


def seen(same: Sequence[Listed]) -> Listed | None:
    """Which one of several of the same key is seen; None where all are hidden."""
    best = max(same, key=lambda each: each.rank)
    if best.hides is None:
        return best
    shown = [
        each
        for each in same
        if each.hides is None and each.made_at is not None and each.made_at > best.hides
    ]
    return max(shown, key=lambda each: each.rank) if shown else None
