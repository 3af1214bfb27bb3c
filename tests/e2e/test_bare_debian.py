"""A bare Debian 12 with git and python3 is enough: clone, ``./dev demo``, ``./dev test``.

Makes such a system with debootstrap, clones the checkout's last commit into it, and runs
both commands in there. Mounts are made in a private mount namespace, and processes live in
a private process namespace, so that both are gone when the command is, however it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PASSED_ON = (
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
)
CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
ENTER = """
set -e
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
cd /
exec chroot "$@"
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Bare:
    """A bare system in a directory; `run` executes a shell command in its checkout."""

    def __init__(self, root: Path, environment: dict[str, str]) -> None:
        self.root, self.environment = root, environment

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["env", "-i", *settings, "sh", "-c", f"cd /src/holdfast && {command}"]
        return isolated(["sh", "-c", ENTER, "enter", str(self.root), *inside])


def isolated(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command whose mounts and processes end with it; output is one text."""
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    return subprocess.run(
        [*unshare, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def reason_to_skip() -> str:
    """Why such a system cannot be made here; empty when it can."""
    if os.geteuid() != 0:
        return "debootstrap needs root"
    if not shutil.which("debootstrap"):
        return "debootstrap is not installed"
    if not (ROOT / ".git").exists():
        return "this is not a git checkout, so there is nothing to clone"
    if isolated(["true"]).returncode:
        return "mount and process namespaces are not allowed here"
    return ""


def debian_mirror() -> str:
    """The mirror that this machine uses, or the public one."""
    try:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = ""
    mirrors = [line.split()[0] for line in listed.splitlines() if line.endswith("/debian/ main")]
    return mirrors[0] if mirrors else "http://deb.debian.org/debian"


def clone_into(target: Path) -> None:
    """Clone the last commit, also where the checkout belongs to somebody else than root."""
    with tempfile.NamedTemporaryFile("w", suffix=".gitconfig") as settings:
        settings.write("[safe]\n\tdirectory = *\n")
        settings.flush()
        subprocess.run(
            ["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), target],
            env={**os.environ, "GIT_CONFIG_GLOBAL": settings.name},
            check=True,
        )


@pytest.fixture(scope="module")
def bare() -> Iterator[Bare]:
    if reason := reason_to_skip():
        pytest.skip(reason)
    # Not pytest's own directory: /tmp may be small, and may forbid devices.
    with tempfile.TemporaryDirectory(prefix="holdfast-bare-", dir="/var/tmp") as directory:
        root = Path(directory) / "root"
        options = ["--variant=minbase", "--include=git,python3,ca-certificates"]
        made = isolated(["debootstrap", *options, "bookworm", str(root), debian_mirror()])
        assert made.returncode == 0, made.stdout[-2000:]
        environment = {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        environment |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        copied = ["/etc/resolv.conf", "/etc/hosts"]
        for name in CERTIFICATES:
            if name in os.environ:
                environment[name] = os.environ[name]
                copied.append(os.environ[name])
        for name in copied:
            if Path(name).is_file():
                inside = root / name.lstrip("/")
                inside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(name, inside)
        (root / "src").mkdir()
        clone_into(root / "src/holdfast")
        # What mypy knows of these files; it saves half a minute, and a change is still seen.
        if (ROOT / ".mypy_cache").is_dir():
            subprocess.run(["cp", "-r", ROOT / ".mypy_cache", root / "src/holdfast"], check=False)
        yield Bare(root, environment)


def test_demo_and_tests_run_on_a_bare_system(bare: Bare) -> None:
    assert bare.run("python3 -c 'import ensurepip'").returncode != 0, "the system is not bare"

    demo = bare.run("./dev demo")
    assert demo.returncode == 0, demo.stdout[-4000:]
    assert "dev: installing python3-venv" in demo.stdout

    again = bare.run("./dev demo")
    assert again.returncode == 0, again.stdout[-4000:]
    assert "dev: installing" not in again.stdout

    tests = bare.run("./dev test --fast tests/unit/test_frame.py")
    assert tests.returncode == 0, tests.stdout[-4000:]
    assert " passed in " in tests.stdout.splitlines()[-1]

    # Nothing but what was run may have changed the checkout.
    assert bare.run("git status --porcelain").stdout == ""
