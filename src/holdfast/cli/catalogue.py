"""The commands there are: names, groups and one line about each.

A plain table, so that help and dispatch import no command but the one that is asked for.
Invariant: every entry has a module of the same name in `holdfast.cli.commands`, or, if it
speaks to a server, is one of the VERBS of the module that is named after its noun.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from enum import Enum, auto
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


class Speaks(Enum):
    """What a command works on, and so which options it takes besides its own."""

    REPOSITORY = auto()
    """A repository, which it opens itself."""
    SERVER = auto()
    """A Holdfast server, over HTTP."""
    MACHINE = auto()
    """This machine: it is a server or an agent, or looks after their files."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One command; `name` is what a person types, one or two words."""

    name: str
    group: str
    summary: str
    speaks: Speaks = Speaks.REPOSITORY

    def load(self) -> Command:
        words = self.name.replace("-", "_").split()
        if self.speaks is not Speaks.SERVER:
            return cast(Command, import_module(f"holdfast.cli.commands.{'_'.join(words)}"))
        module = import_module(f"holdfast.cli.commands.{words[0]}")
        verb = self.name.partition(" ")[2]
        return cast(Command, module.VERBS[verb] if verb else module)


_REPOSITORY = (
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


def _of_server(group: str, noun: str, verbs: dict[str, str]) -> tuple[Entry, ...]:
    return tuple(
        Entry(f"{noun} {verb}", group, summary, Speaks.SERVER) for verb, summary in verbs.items()
    )


_SERVER = (
    Entry("up", "Server", "run a server: API, gateway, clockwork and an agent", Speaks.MACHINE),
    Entry("login", "Server", "sign in to a server, and stay signed in", Speaks.SERVER),
    Entry(
        "logout", "Server", "forget the server, and revoke the token of this login", Speaks.SERVER
    ),
    Entry("whoami", "Server", "say which server this is, and who you are there", Speaks.SERVER),
    Entry(
        "master-key rotate", "Server", "seal the server's secrets with a new key", Speaks.MACHINE
    ),
    *_of_server(
        "Machines",
        "host",
        {
            "list": "list the machines that have an agent",
            "show": "show one machine, its roots and what runs there",
            "invite": "make a token with which one machine can enrol",
            "edit": "change a machine's name, labels or roots",
            "revoke": "take a machine's credential away",
        },
    ),
    Entry("agent enrol", "Machines", "make this machine one of the server's", Speaks.MACHINE),
    Entry("agent run", "Machines", "do what the server has for this machine", Speaks.MACHINE),
    *_of_server(
        "What is protected",
        "source",
        {
            "list": "list what can be captured",
            "show": "show one source",
            "add": "name a path on a machine that is to be protected",
            "edit": "change what is left out, or the labels",
            "remove": "protect it no more; its snapshots stay",
        },
    ),
    *_of_server(
        "What is protected",
        "schedule",
        {
            "list": "list the schedules",
            "show": "show one schedule",
            "add": "capture a source again and again, and keep the results so long",
            "edit": "change when, or how long is kept",
            "pause": "start no more runs until it is resumed",
            "resume": "start runs again",
            "remove": "end a schedule; its snapshots stay",
            "run": "capture now, whatever the time is",
            "preview": "say what retention would keep and remove, and why",
            "next": "say when the next runs are due",
        },
    ),
    *_of_server(
        "Restore points",
        "snapshot",
        {
            "list": "list the runs and restore points of the server",
            "show": "show one, with its findings and what keeps it",
            "edit": "change name, description or labels",
            "delete": "remove it; for some days it can be recovered",
            "recover": "take a removal back",
            "hold": "let nothing remove it until the hold is released",
            "release": "release a hold",
            "cancel": "stop a run",
            "log": "print what a run said",
            "copy": "copy it to another region",
            "browse": "list a directory in it",
            "download": "fetch a file, a folder or all of it",
            "diff": "compare it with another one",
            "restore": "put it, or a part of it, onto a machine",
        },
    ),
    *_of_server(
        "Restore points",
        "restore-job",
        {
            "list": "list the restores",
            "show": "show one restore",
            "cancel": "stop a restore",
            "log": "print what a restore said",
        },
    ),
    *_of_server(
        "Restore points",
        "drill",
        {
            "start": "restore a snapshot to scratch, as a test of whether it comes back",
            "list": "list the drills",
            "show": "show one drill, with its findings",
            "cancel": "stop a drill",
            "log": "print what a drill said",
        },
    ),
    *_of_server(
        "Tasks",
        "task",
        {
            "submit": "have a command run on a host",
            "list": "list the tasks",
            "show": "show a task and its instances",
            "wait": "stay until a task has ended",
            "output": "print what a task has written",
            "abort": "end a task",
            "renew-inputs": "copy what is new in its input buckets into a running task",
            "delete": "remove a task; its snapshots stay",
            "snapshot": "take a snapshot of a running task now",
            "periodic": "take one every so many seconds, or stop that",
            "snapshots": "list the snapshots of a task",
            "preview": "list what filters would take of a running task",
            "restart": "have a new task go on from a snapshot",
            "profiles": "list the ways in which tasks can be run",
        },
    ),
    *_of_server(
        "Tasks",
        "task-snapshot",
        {
            "show": "show a snapshot of a task",
            "edit": "change label or notes",
            "delete": "remove it; for some days its parts can be recovered",
            "download": "fetch a file, a folder or all of it",
            "diff": "compare it with another one",
        },
    ),
    *_of_server(
        "Tasks",
        "bucket",
        {
            "list": "list the buckets with what they store",
            "create": "make a bucket",
            "remove": "remove a bucket",
            "ls": "list what is in a bucket",
            "get": "fetch an object",
            "put": "store a file as an object",
            "rm": "delete an object",
        },
    ),
    *_of_server(
        "What happens",
        "job",
        {
            "list": "list the work that is done and to do",
            "show": "show one job",
            "cancel": "stop a job",
            "log": "print what a job said",
        },
    ),
    *_of_server(
        "What happens",
        "event",
        {"list": "list what happened", "watch": "print what happens, as it happens"},
    ),
    *_of_server(
        "What happens",
        "webhook",
        {
            "list": "list where events are sent",
            "add": "send events to an address",
            "edit": "change which events are sent, or switch it off and on",
            "remove": "send no more there",
            "test": "send a test event",
            "deliveries": "list what was and is to be sent to one",
        },
    ),
    *_of_server("What happens", "audit", {"list": "list who changed what"}),
    *_of_server(
        "Account",
        "account",
        {
            "show": "show the account with its profile and limits",
            "usage": "show how much of its limits it uses",
            "edit": "change its name and profile",
            "list": "list all accounts (operators)",
            "create": "make another account (operators)",
            "quota": "change an account's limits (operators)",
        },
    ),
    *_of_server(
        "Account",
        "member",
        {
            "list": "list the people of the account",
            "add": "add a person",
            "edit": "change a person's role",
            "remove": "take a person out of the account",
        },
    ),
    *_of_server(
        "Account",
        "token",
        {
            "list": "list the tokens",
            "create": "make a token; it is shown once",
            "revoke": "make a token worthless",
        },
    ),
    *_of_server(
        "Account",
        "repository",
        {
            "list": "list the account's repositories and how restic reaches them",
            "password": "show a repository's password",
            "lost": "declare that a store has lost a repository for good",
        },
    ),
    *_of_server(
        "Account",
        "region",
        {"list": "list the regions", "add": "add a region with its store (operators)"},
    ),
    *_of_server("Money", "price", {"list": "list the prices"}),
    *_of_server(
        "Money",
        "billing",
        {
            "balance": "show the balance and what is spent now",
            "ledger": "list all bookings",
            "statement": "show a month, by resource or label",
            "estimate": "say what a run, a restore or a copy would cost",
            "cost": "say what a snapshot has cost so far",
            "credit": "give an account credit (operators)",
        },
    ),
)

ENTRIES = (*_REPOSITORY, *_SERVER)
COMMANDS = {entry.name: entry for entry in ENTRIES}


def verbs_of(noun: str) -> list[Entry]:
    """The commands whose first of two words is `noun`."""
    return [entry for entry in ENTRIES if entry.name.startswith(f"{noun} ")]
