"""Listing a directory: its entries with their metadata, in the order that trees need.

Reads names and ``lstat`` only, relative to a descriptor, so that nobody can swap a
directory on the way for a link that leads elsewhere.
"""

from __future__ import annotations

import os
from bisect import bisect_left

from holdfast.sources.path.ladder import VIEW_PREFIX

Entry = tuple[bytes, os.stat_result]


def list_names(directory_fd: int) -> list[bytes]:
    """Return the names in a directory, sorted by their bytes; views of ours are not among them."""
    names = sorted(map(os.fsencode, os.listdir(directory_fd)))
    first = bisect_left(names, VIEW_PREFIX)
    if first < len(names) and names[first].startswith(VIEW_PREFIX):
        return [name for name in names if not name.startswith(VIEW_PREFIX)]
    return names


def list_entries(
    directory_fd: int,
    names: list[bytes],
    vanished: list[bytes],
    unreadable: list[tuple[bytes, OSError]],
) -> list[Entry]:
    """Return each name with its ``lstat``.

    Names that are gone are appended to `vanished`, those that the system tells nothing of
    (in a directory that may be listed but not entered) to `unreadable`.
    """
    entries: list[Entry] = []
    add, lstat = entries.append, os.lstat
    for name in names:
        try:
            add((name, lstat(name, dir_fd=directory_fd)))
        except FileNotFoundError:
            vanished.append(name)
        except OSError as error:
            unreadable.append((name, error))
    return entries
