"""Deleting a place with whatever a command left in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def remove_tree(root: Path) -> None:
    """Delete a directory and what is in it, also where its owner took its rights away.

    No link is followed. Raises `OSError` for what belongs to somebody else.
    """
    for directory, names, _ in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path) and os.stat(path).st_mode & 0o700 != 0o700:
                os.chmod(path, 0o700)
    shutil.rmtree(root)
