"""The commands there are: names, groups and one line about each.

A plain table, so that help and dispatch import no command but the one that is asked for.
Invariant: every entry has a module of the same name in `holdfast.cli.commands`.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser


class Command(Protocol):
    """What a module in `holdfast.cli.commands` offers."""

    def configure(self, parser: Parser) -> None:
        """Declare the arguments that only this command has."""
        ...

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        """Do it, and return what is to be printed."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One command; `name` is what a person types, one or two words."""

    name: str
    group: str
    summary: str

    def load(self) -> Command:
        module = self.name.replace(" ", "_").replace("-", "_")
        return cast(Command, import_module(f"holdfast.cli.commands.{module}"))


ENTRIES = (
    Entry("init", "Make and fill", "make a new repository"),
    Entry("backup", "Make and fill", "store files and directories as a new snapshot"),
    Entry("disk backup", "Make and fill", "store disk images as a new snapshot"),
    Entry("copy", "Make and fill", "copy snapshots into another repository"),
    Entry("snapshots", "Look", "list the snapshots"),
    Entry("ls", "Look", "list what a snapshot holds"),
    Entry("find", "Look", "find the snapshots that hold a name"),
    Entry("diff", "Look", "compare two snapshots"),
    Entry("disk list", "Look", "list the disks of a snapshot"),
    Entry("stats", "Look", "say how much is stored, and how much deduplication saves"),
    Entry("mount", "Look", "show all snapshots as a read-only file system"),
    Entry("restore", "Get back", "put a snapshot, or a part of one, into a directory"),
    Entry("dump", "Get back", "write one file of a snapshot to standard output"),
    Entry("export", "Get back", "write a snapshot, or a part of one, as a tar or zip archive"),
    Entry("disk export", "Get back", "write a disk of a snapshot as a raw or qcow2 image"),
    Entry("verify", "Keep in order", "check that all that is referred to is there and whole"),
    Entry("forget", "Keep in order", "remove snapshots, by name or by rules of retention"),
    Entry("prune", "Keep in order", "give back the space that no snapshot needs"),
    Entry("repair index", "Keep in order", "make the index anew from the packs"),
    Entry("repair packs", "Keep in order", "save what can be saved from damaged packs"),
    Entry("repair snapshots", "Keep in order", "make snapshots anew without what is lost"),
    Entry("unlock", "Keep in order", "remove locks whose holders are gone"),
    Entry("key list", "Keys", "list the keys, one for each password"),
    Entry("key add", "Keys", "add a password"),
    Entry("key remove", "Keys", "remove a key"),
    Entry("key change", "Keys", "replace the password in use by another one"),
)

COMMANDS = {entry.name: entry for entry in ENTRIES}


def verbs_of(noun: str) -> list[Entry]:
    """The commands whose first of two words is `noun`."""
    return [entry for entry in ENTRIES if entry.name.startswith(f"{noun} ")]
