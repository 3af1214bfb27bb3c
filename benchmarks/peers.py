"""The programs that are compared: how each is told to do the same thing.

Every program runs with its own defaults for compression, chunks and processes, with
encryption, and with its own cache. A peer returns commands and runs nothing itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from measure import Command

PASSWORD = "benchmark"


class Peer(Protocol):
    """A program that backs up; `home` is the directory with its repository and its cache."""

    @property
    def name(self) -> str: ...

    def version(self) -> str: ...

    def create(self, home: str) -> Command:
        """Make the repository ``home/repository``."""
        ...

    def backup(self, home: str, path: str) -> Command:
        """Store the directory `path`."""
        ...

    def backup_disk(self, home: str, image: str, dirty: str | None) -> Command:
        """Store a disk image; `dirty` names a list of what changed, for who can use it."""
        ...

    def restore(self, home: str, path: str, target: str) -> Command:
        """Put what the newest snapshot has of the directory `path` into or below `target`."""
        ...

    def restore_disk(self, home: str, image: str, target: str) -> Command:
        """Write the image into or below the directory `target`, with holes."""
        ...

    def snapshots(self, home: str) -> Command:
        """List the snapshots."""
        ...


@dataclass(frozen=True)
class Holdfast:
    """This checkout's command line."""

    program: str
    name: str = "holdfast"

    def version(self) -> str:
        return _words(self.program, "--version")

    def create(self, home: str) -> Command:
        return self._command(home, "init")

    def backup(self, home: str, path: str) -> Command:
        return self._command(home, "backup", path)

    def backup_disk(self, home: str, image: str, dirty: str | None) -> Command:
        changed = [] if dirty is None else ["--dirty", dirty]
        return self._command(home, "disk", "backup", f"disk={image}", *changed)

    def restore(self, home: str, path: str, target: str) -> Command:
        return self._command(home, "restore", f"latest:{path}", "--target", target)

    def restore_disk(self, home: str, image: str, target: str) -> Command:
        output = os.path.join(target, os.path.basename(image))
        return self._command(home, "disk", "export", "latest", "--output", output)

    def snapshots(self, home: str) -> Command:
        return self._command(home, "snapshots")

    def _command(self, home: str, *arguments: str) -> Command:
        environment = {
            "HOLDFAST_REPOSITORY": f"{home}/repository",
            "HOLDFAST_PASSWORD": PASSWORD,
            "HOLDFAST_CACHE_DIR": f"{home}/cache",
        }
        # 3 is success with something to tell, such as files read while others wrote them.
        return Command([self.program, *arguments], environment, accepted=(0, 3))


@dataclass(frozen=True)
class Restic:
    """restic: it reads a disk image like any file, and always whole."""

    program: str
    name: str = "restic"

    def version(self) -> str:
        return " ".join(_words(self.program, "version").split()[:2])

    def create(self, home: str) -> Command:
        return self._command(home, "init")

    def backup(self, home: str, path: str) -> Command:
        return self._command(home, "backup", path)

    def backup_disk(self, home: str, image: str, dirty: str | None) -> Command:
        del dirty
        return self._command(home, "backup", image)

    def restore(self, home: str, path: str, target: str) -> Command:
        return self._command(home, "restore", f"latest:{path}", "--target", target)

    def restore_disk(self, home: str, image: str, target: str) -> Command:
        directory = os.path.dirname(image)
        return self._command(home, "restore", f"latest:{directory}", "--sparse", "--target", target)

    def snapshots(self, home: str) -> Command:
        return self._command(home, "snapshots")

    def _command(self, home: str, *arguments: str) -> Command:
        environment = {
            "RESTIC_REPOSITORY": f"{home}/repository",
            "RESTIC_PASSWORD": PASSWORD,
            "RESTIC_CACHE_DIR": f"{home}/cache",
        }
        return Command([self.program, *arguments], environment)


@dataclass(frozen=True)
class Borg:
    """borg: it needs an archive's name for everything; they are numbered by time."""

    program: str
    name: str = "borg"

    def version(self) -> str:
        return _words(self.program, "--version")

    def create(self, home: str) -> Command:
        return self._command(home, "init", "--encryption", "repokey-blake2")

    def backup(self, home: str, path: str) -> Command:
        return self._command(home, "create", "::{now:%Y%m%dT%H%M%S%f}", path)

    def backup_disk(self, home: str, image: str, dirty: str | None) -> Command:
        del dirty
        return self.backup(home, image)

    def restore(self, home: str, path: str, target: str) -> Command:
        del path
        return self._command(home, "extract", f"::{self._newest(home)}", directory=target)

    def restore_disk(self, home: str, image: str, target: str) -> Command:
        del image
        newest = self._newest(home)
        return self._command(home, "extract", "--sparse", f"::{newest}", directory=target)

    def snapshots(self, home: str) -> Command:
        return self._command(home, "list")

    def _newest(self, home: str) -> str:
        command = self._command(home, "list", "--last", "1", "--format", "{archive}")
        return _words(*command.arguments, environment={**os.environ, **command.environment})

    def _command(self, home: str, *arguments: str, directory: str | None = None) -> Command:
        environment = {
            "BORG_REPO": f"{home}/repository",
            "BORG_PASSPHRASE": PASSWORD,
            "BORG_BASE_DIR": f"{home}/cache",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        }
        return Command([self.program, *arguments], environment, directory)


def find_peers() -> Iterator[Peer]:
    """Holdfast, and those of the others that are there; says which are not."""
    beside = os.path.join(os.path.dirname(sys.executable), "holdfast")
    program = beside if os.path.exists(beside) else shutil.which("holdfast")
    if program is None:
        raise SystemExit("there is no holdfast beside this Python; run `./dev bench`")
    yield Holdfast(program)
    for kind, variable in ((Restic, "HOLDFAST_RESTIC_NEW"), (Borg, "HOLDFAST_BORG")):
        path = os.environ.get(variable)
        if path and os.access(path, os.X_OK):
            yield kind(path)
        else:
            said = f"{variable} is {path!r}, which cannot be run" if path else f"no {variable}"
            print(f"left out: {kind.__name__.lower()} ({said})", file=sys.stderr)


def _words(*command: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()
