"""A real Slurm for tests: munged, slurmctld and one slurmd, on loopback.

Workers of one test run share one cluster, and nothing outlives the tests (see
`shared_cluster`); what jobs left is killed too.

It never keeps data: the cluster's directory is removed when it stops. It runs as whoever
runs the tests; as root it also sets up what only root can.

Needs the Debian packages ``slurmctld slurmd slurm-client munge``.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import shared_cluster
from shared_cluster import die_with_parent, free_port, supervise

PROGRAMS = ("slurmctld", "slurmd", "squeue", "sbatch", "scancel", "scontrol", "munged")
PACKAGES = "slurmctld slurmd slurm-client munge"
START_SECONDS = 60

_PR_SET_CHILD_SUBREAPER = 36
_SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


@dataclass(frozen=True)
class Slurm:
    """A running cluster: one partition `short` (the default) and one `long`, one node."""

    configuration: str
    node: str

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this cluster needs besides its own environment."""
        return {"SLURM_CONF": self.configuration}

    def ask(self, *command: str) -> str:
        """Run one of Slurm's programs and return what it printed."""
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}{done.stdout}")
        return done.stdout

    def stop_controller(self) -> None:
        """Stop slurmctld; it stays away until `start_controller`."""
        directory = Path(self.configuration).parent
        (directory / "controller-away").touch()
        _until(lambda: (directory / "controller-is-away").exists(), "slurmctld did not stop")

    def start_controller(self) -> None:
        """Start slurmctld again after `stop_controller` and wait until it answers."""
        directory = Path(self.configuration).parent
        (directory / "controller-away").unlink(missing_ok=True)
        _until(lambda: not (directory / "controller-is-away").exists(), "slurmctld is away")
        _until(self._answers, "slurmctld does not answer")

    def _answers(self) -> bool:
        try:
            return "UP" in self.ask("scontrol", "ping")
        except RuntimeError:
            return False


def missing_programs() -> list[str]:
    """Which of the needed programs are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=_SYSTEM_PATH) is None]


@contextmanager
def running(shared: Path) -> Iterator[Slurm]:
    """Use the cluster whose state lies under `shared`, starting it if nobody has yet."""
    with shared_cluster.running(
        shared, __file__, "Slurm", within_seconds=2 * START_SECONDS
    ) as state:
        yield Slurm(**state)


class Cluster:
    """The daemons and their directory; used by the supervisor only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "slurm.conf"
        # A socket's path holds 107 bytes; pytest's directories are often longer.
        self.sockets = Path(tempfile.mkdtemp(prefix="hf-munge-", dir="/tmp"))
        self.node = socket.gethostname().split(".")[0]
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> Slurm:
        self.directory.mkdir(mode=0o755)
        for name in ("state", "spool"):
            (self.directory / name).mkdir(mode=0o755)
        self.configuration.write_text(self._settings())
        (self.directory / "cgroup.conf").write_text(f"CgroupPlugin={_cgroup_plugin()}\n")
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        self._start_munge(key)
        self.start_controller()
        self._daemon("slurmd", "-D", "-f", str(self.configuration), "-N", self.node, "-c")
        slurm = Slurm(str(self.configuration), self.node)
        _until(lambda: self._ready(slurm), f"the node {self.node} does not become idle")
        return slurm

    def start_controller(self) -> None:
        fresh = [] if any((self.directory / "state").iterdir()) else ["-c"]
        self._daemon("slurmctld", "-D", "-f", str(self.configuration), *fresh)

    def stop_controller(self) -> None:
        # Not killed: it would forget its latest job and give that id again, which slurmd refuses.
        controller = self._daemons.pop("slurmctld")
        controller.terminate()
        controller.wait(START_SECONDS)

    def alive(self) -> bool:
        return all(daemon.poll() is None for daemon in self._daemons.values())

    def stop(self) -> None:
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
            daemon.wait()
        # Steps and their commands are orphans now, which come to this process.
        _kill_descendants()
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.sockets, ignore_errors=True)

    def _ready(self, slurm: Slurm) -> bool:
        if not self.alive():
            raise RuntimeError(f"a daemon of the Slurm test cluster ended\n{self._said()}")
        try:
            return "idle" in slurm.ask("sinfo", "--noheader", "--format=%T")
        except RuntimeError:
            return False

    def _said(self) -> str:
        logs = (*self.directory.glob("*.out"), *self.directory.glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text()[-1500:]}" for log in sorted(logs))

    def _start_munge(self, key: Path) -> None:
        self.sockets.chmod(0o755)
        self._daemon(
            "munged", "--foreground", "--force", "--num-threads=2",
            f"--socket={self.sockets}/socket", f"--key-file={key}",
            f"--pid-file={self.directory}/munged.pid", f"--log-file={self.directory}/munged.log",
            f"--seed-file={self.directory}/munged.seed",
        )  # fmt: skip
        _until((self.sockets / "socket").exists, "munged does not listen")

    def _daemon(self, *command: str) -> None:
        with (self.directory / f"{command[0]}.out").open("ab") as output:
            self._daemons[command[0]] = subprocess.Popen(
                [_path(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"SLURM_CONF": str(self.configuration)},
                preexec_fn=die_with_parent,
            )

    def _settings(self) -> str:
        user = getpass.getuser()
        processors = os.cpu_count() or 1
        # More than there are, so that tests on few processors do not wait for each other.
        return f"""
ClusterName=holdfast
SlurmctldHost={self.node}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={self.sockets}/socket
CredType=cred/munge
StateSaveLocation={self.directory}/state
SlurmdSpoolDir={self.directory}/spool
SlurmctldPidFile={self.directory}/slurmctld.pid
SlurmdPidFile={self.directory}/slurmd.pid
SlurmctldLogFile={self.directory}/slurmctld.log
SlurmdLogFile={self.directory}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=50000,bf_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=60
InactiveLimit=0
KillWait=2
MinJobAge=30
UnkillableStepTimeout=60
MaxJobCount=1000
JobRequeue=1
SlurmdParameters=config_overrides
NodeName={self.node} NodeAddr=127.0.0.1 CPUs={max(8, processors)} RealMemory=1000 State=UNKNOWN
PartitionName=short Nodes={self.node} Default=YES MaxTime=60 OverTimeLimit=0 State=UP
PartitionName=long Nodes={self.node} MaxTime=INFINITE State=UP
"""


def _cgroup_plugin() -> str:
    """Slurm's word for leaving control groups alone; 22.05 has none, but version 1 does as much."""
    said = subprocess.run([_path("slurmd"), "-V"], capture_output=True, text=True, check=True)
    return "cgroup/v1" if said.stdout.startswith("slurm-wlm 22.") else "disabled"


def _path(program: str) -> str:
    path = shutil.which(program, path=_SYSTEM_PATH)
    if path is None:
        raise RuntimeError(f"no {program}: apt-get install {PACKAGES}")
    return path


def _until(happens: object, otherwise: str) -> None:
    assert callable(happens)
    deadline = time.monotonic() + START_SECONDS
    while not happens():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.05)


def _kill_descendants() -> None:
    """Kill every process below this one until there is none."""
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(each) for each in listed.split()]


def _serve(cluster: Cluster, users: int) -> None:
    """Stop and start the controller as its users wish, until there are none."""
    wished, done = cluster.directory / "controller-away", cluster.directory / "controller-is-away"
    while True:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return
        if wished.exists() and not done.exists():
            cluster.stop_controller()
            done.touch()
        elif done.exists() and not wished.exists():
            cluster.start_controller()
            done.unlink()
        time.sleep(0.05)


if __name__ == "__main__":
    os.umask(0o022)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    directory = Path(sys.argv[1])
    cluster = Cluster(directory / "cluster")
    supervise(directory, cluster, partial(_serve, cluster))
