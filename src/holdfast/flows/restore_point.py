"""What makes a stored tree a restore point: our manifest in it, and the snapshot's record.

Shared by every kind of backup. It stores the manifest through a function that it is given
and builds the record as a document; it never commits one.
"""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from holdfast import __version__
from holdfast.flows.backup_tasks import Counts
from holdfast.flows.locate import MANIFEST_DIRECTORY
from holdfast.model.manifest import Manifest, to_json
from holdfast.model.node import Node, NodeType
from holdfast.model.snapshot import Snapshot
from holdfast.repo import rfc3339
from holdfast.repo.pack import BlobType
from holdfast.repo.tree import encode_node, encode_tree
from holdfast.repo.writer import WriteTotals

_MANIFEST_FILE = b"manifest.json"


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """What a snapshot's record says; `counts` and `added` fill restic's summary."""

    tree: bytes
    paths: Sequence[bytes]
    hostname: str
    started_ns: int
    counts: Counts
    added: WriteTotals
    time: datetime | None = None
    parent: Snapshot | None = None
    excludes: Sequence[str] = ()
    tags: Sequence[str] = ()

    def document(self) -> dict[str, object]:
        """Return the record, in the order of fields that restic writes."""
        moment = self.time or datetime.fromtimestamp(self.started_ns / 1e9).astimezone()
        document: dict[str, object] = {"time": moment.isoformat().replace("+00:00", "Z")}
        if self.parent is not None:
            document["parent"] = self.parent.id
        document |= {
            "tree": self.tree.hex(),
            "paths": [recorded(path) for path in self.paths],
            "hostname": self.hostname,
            "username": _username(),
            "uid": os.getuid(),
            "gid": os.getgid(),
        }
        if self.excludes:
            document["excludes"] = [recorded(os.fsencode(rule)) for rule in self.excludes]
        if self.tags:
            document["tags"] = list(self.tags)
        document["program_version"] = f"holdfast {__version__}"
        document["summary"] = self._summary()
        return document

    def _summary(self) -> dict[str, object]:
        counts, added = self.counts, self.added
        return {
            "backup_start": rfc3339.from_ns(self.started_ns),
            "backup_end": rfc3339.from_ns(time.time_ns()),
            "files_new": counts.files_new,
            "files_changed": counts.files_changed,
            "files_unmodified": counts.files_unmodified,
            "dirs_new": counts.dirs_new,
            "dirs_changed": counts.dirs_changed,
            "dirs_unmodified": counts.dirs_unmodified,
            "data_blobs": added.data_blobs,
            "tree_blobs": added.tree_blobs,
            "data_added": added.raw_bytes,
            "data_added_packed": added.stored_bytes,
            "total_files_processed": counts.files,
            "total_bytes_processed": counts.bytes_seen,
        }


def manifest_node(
    manifest: Manifest, moment_ns: int, store: Callable[[BlobType, bytes], bytes]
) -> tuple[bytes, str]:
    """Store a manifest with its directory; return the directory's name and node."""
    content = to_json(manifest)
    common = Node(
        _MANIFEST_FILE,
        NodeType.FILE,
        mode=0o400,
        mtime_ns=moment_ns,
        atime_ns=moment_ns,
        ctime_ns=moment_ns,
        uid=os.getuid(),
        gid=os.getgid(),
    )
    file = common._replace(size=len(content), content=(store(BlobType.DATA, content),))
    directory = common._replace(
        name=MANIFEST_DIRECTORY,
        type=NodeType.DIRECTORY,
        mode=0o700,
        subtree=store(BlobType.TREE, encode_tree([file])),
    )
    return MANIFEST_DIRECTORY, encode_node(directory)


def recorded(raw: bytes) -> str:
    """Text as a record can hold it; restic replaces what is not UTF-8, too."""
    return raw.decode("utf-8", "replace")


def _username() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
