"""``holdfast disk list``: list the disks of a snapshot."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli import text
from holdfast.cli.choice import add_snapshot, chosen
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.model.quantity import print_bytes


def configure(parser: Parser) -> None:
    add_snapshot(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.backup_disk import DISK_TAG
    from holdfast.flows.disk_tree import load_manifest
    from holdfast.repo.reader import BlobReader

    repository = invocation.open_repository()
    snapshot = chosen(repository, arguments, arguments.snapshot, lambda each: DISK_TAG in each.tags)
    reader = BlobReader(repository, repository.open_index())
    manifest = load_manifest(reader, bytes.fromhex(snapshot.tree))
    disks = [
        {
            "name": disk.name,
            "size_bytes": disk.size_bytes,
            "directory": disk.directory,
            "source": manifest.source.get(disk.name),
            "sha256": disk.sha256,
        }
        for disk in manifest.disks
    ]
    rows = [
        (disk.name, print_bytes(disk.size_bytes), manifest.source.get(disk.name, ""))
        for disk in manifest.disks
    ]
    return Outcome(
        {"snapshot": snapshot.id, "consistency": manifest.consistency.value, "disks": disks},
        answer=text.table(("name", "size", "source"), rows, right=("size",)) if rows else (),
        summary=() if rows else [f"snapshot {snapshot.short_id} holds no disk"],
    )
