"""A real Ceph object gateway for tests: one monitor, one OSD, one radosgw, on loopback.

Workers of one test run share one cluster, and nothing outlives the tests (see
`shared_cluster`).

It never keeps data: the cluster's directory is removed when it stops. Authentication
inside the cluster is off; the gateway's own S3 authentication is on.

Needs the Debian packages ``ceph-mon ceph-osd radosgw ceph-common``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shared_cluster
from shared_cluster import die_with_parent, free_port, supervise

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "monmaptool")
PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"
START_SECONDS = 120


@dataclass(frozen=True)
class Radosgw:
    """A running gateway and one user's credentials."""

    endpoint_url: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"

    def client(self) -> Any:
        """A boto3 S3 client: the second opinion on what the gateway holds."""
        return s3_client(self.endpoint_url, self.access_key, self.secret_key)

    def make_bucket(self, *, object_lock: bool = False) -> str:
        """Create an empty bucket with a name of its own and return the name.

        With `object_lock` it is versioned and every new object version is retained for
        one day (governance mode).
        """
        name = f"t-{uuid.uuid4().hex[:20]}"
        client = self.client()
        try:
            client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=object_lock)
            if object_lock:
                retention = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
                client.put_object_lock_configuration(
                    Bucket=name,
                    ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": retention},
                )
        finally:
            client.close()
        return name


def s3_client(endpoint_url: str, access_key: str, secret_key: str) -> Any:
    """A path-style boto3 client that does not retry."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def missing_programs() -> list[str]:
    """Which of the needed programs are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


@contextmanager
def running(shared: Path) -> Iterator[Radosgw]:
    """Use the gateway whose state lies under `shared`, starting it if nobody has yet."""
    with shared_cluster.running(shared, __file__, "Ceph", within_seconds=START_SECONDS) as state:
        yield Radosgw(**state)


class Cluster:
    """The daemons and their directory; used by the supervisor only."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.configuration = directory / "ceph.conf"
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> Radosgw:
        self.directory.mkdir()
        fsid = str(uuid.uuid4())
        mon_port, gateway_port = free_port(), free_port()
        monitor = f"127.0.0.1:{mon_port}"
        self.configuration.write_text(_configuration(self.directory, fsid, monitor))
        monmap = self.directory / "monmap"
        self._run(
            "monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:{monitor}]", str(monmap)
        )
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap))
        self._daemon("ceph-mon", "-i", "a")
        osd_uuid = str(uuid.uuid4())
        self._run("ceph", "osd", "new", osd_uuid)
        (self.directory / "osd").mkdir()
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid)
        self._daemon("ceph-osd", "-i", "0")
        self._daemon("radosgw", "-n", "client.rgw", "--rgw-frontends",
                     f"beast endpoint=127.0.0.1:{gateway_port} tcp_nodelay=1")  # fmt: skip
        access_key, secret_key = "HOLDFASTTESTKEY00000", uuid.uuid4().hex
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "tester",
                  "--display-name", "Tester", "--max-buckets", "0",
                  "--access-key", access_key, "--secret", secret_key)  # fmt: skip
        endpoint = f"http://127.0.0.1:{gateway_port}"
        self._wait_for(endpoint)
        return Radosgw(endpoint, access_key, secret_key)

    def alive(self) -> bool:
        return all(daemon.poll() is None for daemon in self.daemons)

    def stop(self) -> None:
        # Nothing in the cluster is worth a clean shutdown, which takes an OSD seconds.
        for daemon in reversed(self.daemons):
            daemon.kill()
            daemon.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, *command: str) -> None:
        subprocess.run(
            [command[0], "-c", str(self.configuration), *command[1:]]
            if command[0] != "monmaptool"
            else command,
            check=True,
            timeout=START_SECONDS,
            stdin=subprocess.DEVNULL,
        )

    def _daemon(self, *command: str) -> None:
        self.daemons.append(
            subprocess.Popen(
                [command[0], "-f", "-c", str(self.configuration), *command[1:]],
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )
        )

    def _wait_for(self, endpoint: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(endpoint, timeout=5).close()
            except OSError:
                if not self.alive() or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return


def _configuration(directory: Path, fsid: str, monitor: str) -> str:
    return f"""
[global]
fsid = {fsid}
mon host = [v2:{monitor}]
auth cluster required = none
auth service required = none
auth client required = none
keyring = {directory}/keyring
run dir = {directory}
admin socket =
pid file =
log file = {directory}/$name.log
mon cluster log file = {directory}/cluster.log
crash dir = {directory}
ms bind ipv6 = false
ms bind msgr1 = false
ms mon client mode = crc secure
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 10000
[mon]
mon data = {directory}/mon
mon data avail crit = 1
[osd]
osd data = {directory}/osd
osd objectstore = bluestore
osd memory target = 1073741824
bluestore block size = 12884901888
bluestore block create = true
bluestore block db size = 0
bluestore block wal size = 0
bluestore fsck on mount = false
osd class update on start = false
[client.rgw]
rgw data = {directory}/rgw
rgw rados pool pg num min = 1
rgw thread pool size = 64
rgw enable usage log = false
rgw enable ops log = false
"""


if __name__ == "__main__":
    os.umask(0o077)
    directory = Path(sys.argv[1])
    supervise(directory, Cluster(directory / "cluster"))
