"""The golden repositories: archives that never change, and what each of them must give back.

Every archive ``NAME.tar.xz`` holds one sound repository with two snapshots; ``NAME.json``
beside it lists what was in the files when they were backed up. `make.py` made both.
"""

from __future__ import annotations

import json
import os
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from tree_compare import describe_tree

HERE = Path(__file__).parent
PASSWORD = "golden password"
NAMES = ("holdfast-0.1", "restic-0.14-v1", "restic-0.14-v2", "restic-0.19-v2")
_FIELDS = ("kind", "mode", "mtime_ns", "size", "sha256", "linktarget", "device", "xattrs", "names")

Listing = dict[str, dict[str, Any]]


def listing(root: Path) -> Listing:
    """What lies below `root`, by percent-encoded path; without owners, which differ."""
    found: Listing = {}
    for path, entry in describe_tree(root).items():
        fields = asdict(entry)
        fields["linktarget"] = quote_from_bytes(entry.linktarget)
        fields["names"] = [quote_from_bytes(name) for name in entry.names]
        fields["xattrs"] = [[name, value.hex()] for name, value in entry.xattrs]
        found[quote_from_bytes(path)] = {name: fields[name] for name in _FIELDS}
    return found


@dataclass(frozen=True)
class Golden:
    """One golden repository. `files` is the path that was backed up, inside the snapshots."""

    name: str
    files: str
    snapshots: dict[str, Listing]

    @classmethod
    def load(cls, name: str) -> Golden:
        document = json.loads((HERE / f"{name}.json").read_text())
        return cls(name, document["files"], document["snapshots"])

    def unpack(self, directory: Path) -> Path:
        """Unpack a fresh copy into `directory` and return where the repository is."""
        with tarfile.open(HERE / f"{self.name}.tar.xz") as archive:
            archive.extractall(directory, filter="data")
        repository = directory / self.name
        for path in repository.rglob("*"):
            os.chmod(path, 0o700 if path.is_dir() else 0o600)
        return repository

    @property
    def inside(self) -> bytes:
        """The path to restore from."""
        return os.fsencode(self.files.lstrip("/"))
