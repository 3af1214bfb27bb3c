"""Which snapshots are meant: options that narrow them down, and what they match.

A snapshot matches when it is of one of the hosts, holds all of the paths, and carries all
tags of one of the lists.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from holdfast.cli import values
from holdfast.cli.parser import Parser

if TYPE_CHECKING:
    from holdfast.model.snapshot import Snapshot
    from holdfast.repo.repository import Repository


def add_choice(parser: Parser, what: str = "only snapshots") -> None:
    """Declare ``--host``, ``--path`` and ``--tag``."""
    group = parser.add_argument_group("which snapshots")
    group.add_argument("--host", metavar="HOST", action="append", default=[], help=f"{what} of it")
    group.add_argument(
        "--path", metavar="PATH", action="append", default=[], help=f"{what} of this path"
    )
    group.add_argument(
        "--tag",
        metavar="TAG[,TAG]",
        action="append",
        default=[],
        help=f"{what} with all of these tags; given again, another choice",
    )


def add_snapshot(parser: Parser, *, with_path: bool = False) -> None:
    """Declare the one snapshot that a command is about."""
    name = "SNAPSHOT[:PATH]" if with_path else "SNAPSHOT"
    parser.add_argument("snapshot", metavar=name, help="an id, the beginning of one, or `latest`")
    add_choice(parser, "latest is the newest")


def matcher(arguments: Namespace) -> Callable[[Snapshot], bool]:
    """Whether a snapshot is one of those that the options allow."""
    hosts, paths = frozenset(arguments.host), frozenset(arguments.path)
    tag_lists = [frozenset(values.tags([text])) for text in arguments.tag]

    def matches(snapshot: Snapshot) -> bool:
        if hosts and snapshot.hostname not in hosts:
            return False
        if not paths <= set(snapshot.paths):
            return False
        return not tag_lists or any(
            tags <= set(snapshot.tags) if tags else not snapshot.tags for tags in tag_lists
        )

    return matches


def chosen(
    repository: Repository,
    arguments: Namespace,
    name: str,
    besides: Callable[[Snapshot], bool] = lambda _snapshot: True,
) -> Snapshot:
    """The snapshot that a person calls `name`; ``latest`` must also match `besides`."""
    matches = matcher(arguments)
    return repository.find_snapshot(name, lambda snapshot: matches(snapshot) and besides(snapshot))


def snapshot_document(snapshot: Snapshot) -> dict[str, object]:
    """A snapshot for programs: the record as it is stored, and its ids."""
    return {**snapshot.document, "id": snapshot.id, "short_id": snapshot.short_id}


def newest_of_each(snapshots: Iterable[Snapshot], number: int) -> list[Snapshot]:
    """The `number` newest for each host and set of paths, oldest first."""
    kept: list[Snapshot] = []
    seen: dict[tuple[str, tuple[str, ...]], int] = {}
    for snapshot in reversed(list(snapshots)):
        key = (snapshot.hostname, tuple(sorted(snapshot.paths)))
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= number:
            kept.append(snapshot)
    return kept[::-1]
