"""``holdfast dump``: write one file of a snapshot to standard output."""

from __future__ import annotations

import os
from argparse import Namespace

from holdfast.cli import values
from holdfast.cli.choice import add_snapshot, chosen
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.output import RawOutput
from holdfast.cli.parser import Parser
from holdfast.errors import UsageError


def configure(parser: Parser) -> None:
    add_snapshot(parser, with_path=True)
    parser.add_argument("file", metavar="PATH", nargs="?", default="", help="the file in it")


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.dump import DumpRequest, dump
    from holdfast.flows.locate import normal_path

    name, path = values.snapshot_and_path(arguments.snapshot)
    if bool(path) == bool(arguments.file):
        raise UsageError("name one file in the snapshot, as SNAPSHOT PATH or SNAPSHOT:PATH")
    repository = invocation.open_repository()
    request = DumpRequest(
        snapshot=chosen(repository, arguments, name).id,
        path=normal_path(os.fsencode(path or arguments.file)),
        with_lock=invocation.with_lock,
    )
    out = RawOutput()
    dump(repository, request, out, invocation.progress)
    out.flush()
    return Outcome(raw=True)
