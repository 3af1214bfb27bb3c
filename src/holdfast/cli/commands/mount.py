"""``holdfast mount``: show all snapshots as a read-only file system."""

from __future__ import annotations

import os
import signal
from argparse import Namespace

from holdfast.cli.choice import add_choice, matcher
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.errors import TargetError


def configure(parser: Parser) -> None:
    parser.add_argument("directory", metavar="DIRECTORY", help="an empty directory")
    add_choice(parser)
    parser.add_argument(
        "--allow-other",
        action="store_true",
        help="let other users look, too, as far as the modes of the files allow",
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.read_session import ReadSession

    if not os.path.isdir(arguments.directory):
        raise TargetError(f"{arguments.directory} is not a directory; make it first")
    try:
        from holdfast.cli.mount import mount
    except (ImportError, OSError):
        raise TargetError(
            "mounting needs FUSE; install fuse3 (`apt install fuse3`), or use restore or dump"
        ) from None
    repository = invocation.open_repository()
    with ReadSession(
        repository, with_lock=invocation.with_lock, wait_seconds=invocation.wait_seconds
    ) as session:
        snapshots, findings = repository.snapshots()
        chosen = list(filter(matcher(arguments), snapshots))
        index = session.index
        session.keep_lock()
        if not (invocation.json or invocation.options.quiet):
            invocation.progress.note(
                f"mounted on {arguments.directory}; Ctrl-C or `fusermount3 -u` ends it"
            )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # so that FUSE sets its own, and unmounts
        mount(repository, index, chosen, arguments.directory, allow_other=arguments.allow_other)
    return Outcome({"directory": arguments.directory, "snapshots": len(chosen)}, findings=findings)
