"""``./dev demo``: a server, two machines, a disaster.

``--task`` shows it with a computation, ``--engine`` the engine alone.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from holdfast.demo.narration import Differs, write
from holdfast.errors import HoldfastError


def main() -> None:
    """Run a demonstration; exit with 1 where something differs."""
    parser = argparse.ArgumentParser("./dev demo", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="keep the directory, and the server until Ctrl-C"
    )
    parser.add_argument(
        "--engine", action="store_true", help="no server: a repository in a directory alone"
    )
    parser.add_argument(
        "--task", action="store_true", help="a solver that loses its machine, and goes on"
    )
    options = parser.parse_args()
    # A request to end unwinds the demonstration, so that its processes go too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: _interrupt())
    directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    try:
        if options.engine:
            from holdfast.demo.engine import PASSWORD, Demonstration

            Demonstration(directory).run()
            kept = f"{directory}  (password: {PASSWORD})"
        elif options.task:
            from holdfast.demo.task import TaskDemonstration

            TaskDemonstration(directory).run()
            kept = str(directory)
        else:
            from holdfast.demo.installation import Installation

            Installation(directory).run(keep=options.keep)
            kept = str(directory)
        if options.keep:
            write(f"\nEverything is still there: {kept}")
    except (Differs, HoldfastError) as error:
        sys.exit(f"\nThe demonstration FAILED: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")
    finally:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)


def _interrupt() -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
