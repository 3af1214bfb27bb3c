"""A podman store for tests, with a base image made of busybox; nothing is pulled.

Everything lies in a directory of the tests: images, containers, runtime files, settings. The
settings are those that work without systemd too: runc, cgroups through the file system, the
host's network. Containers that a test forgot are removed with the store.

Needs the Debian packages ``podman runc busybox-static``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("podman", "runc", "busybox")
PACKAGES = "podman runc busybox-static"
IMAGE = "localhost/holdfast-test:1"
APPLETS = ("sh", "cat", "echo", "sleep", "id", "kill", "ls", "mkdir", "printf", "rm", "seq", "wc")

SETTINGS = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
netns = "host"

[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"""


@dataclass(frozen=True)
class PodmanStore:
    """`program` is podman with the options of this store, `environment` what it needs.

    `running` is the directory of its runtime files; podman wants that to have a short name.
    """

    program: tuple[str, ...]
    environment: dict[str, str]
    running: str

    def __call__(self, *arguments: str) -> str:
        """Call podman; what it prints."""
        done = subprocess.run(
            [*self.program, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"podman {arguments[0]}: {done.stderr}")
        return done.stdout

    def close(self) -> None:
        self("rm", "--all", "--force", "--time", "0")
        shutil.rmtree(self.running, ignore_errors=True)


def missing_programs() -> list[str]:
    """Which of the needed programs are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def make(directory: Path) -> PodmanStore:
    """A new store in the directory, with `IMAGE` in it; raises where podman does not work."""
    settings = directory / "containers.conf"
    settings.write_text(SETTINGS)
    running = tempfile.mkdtemp(prefix="podman-")
    options = [f"--root={directory / 'root'}"]
    options += [f"--{name}={running}/{name}" for name in ("runroot", "tmpdir")]
    store = PodmanStore(
        ("podman", *options, "--storage-driver=vfs"),
        {**os.environ, "CONTAINERS_CONF": os.fspath(settings)},
        running,
    )
    tree = directory / "image.tar"
    with tarfile.open(tree, "w") as archive:
        for name in ("bin", "dev", "etc", "job", "proc", "sys", "tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        busybox = shutil.which("busybox")
        assert busybox is not None
        archive.add(busybox, "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    store("import", "--change", "ENV PATH=/bin", os.fspath(tree), IMAGE)
    # One container shows whether the kernel and the runtime get along at all.
    store("run", "--rm", IMAGE, "echo", "it works")
    return store
