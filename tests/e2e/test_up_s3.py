"""The whole on a real S3: a server whose region is a bucket, a machine, its loss, its return."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from command_line import make_tree
from radosgw import Radosgw
from restic_program import restic_named
from running_server import RunningServer

from holdfast.demo.installation import enrolled
from holdfast.demo.processes import Machine
from holdfast.demo.work_tree import compare, inventory
from holdfast.sdk.client import Client
from holdfast.sdk.sign_in import sign_in

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("radosgw")]


def test_a_machine_is_protected_in_a_bucket_lost_and_restored(
    radosgw: Radosgw, tmp_path: Path
) -> None:
    """B7 B8 B11: nothing of it lies on the server, and the bucket alone is enough."""
    bucket = radosgw.make_bucket()
    server = RunningServer(tmp_path)
    own = tmp_path / "own"
    own.mkdir()
    options = {
        "access_key_id": radosgw.access_key,
        "secret_access_key": radosgw.secret_key,
        "region": radosgw.region,
    }
    server.variables |= {
        "HOLDFAST_SERVER_AGENT_ROOTS": str(own),
        "HOLDFAST_SERVER_REGION_LOCATION": f"s3:{radosgw.endpoint_url}/{bucket}/hold",
        "HOLDFAST_SERVER_REGION_OPTIONS": json.dumps(options),
    }
    try:
        server.start()
        password = Path(server.announced["password_file"]).read_text().strip()
        email = server.announced["owner_email"]
        secret = sign_in(server.url, email, password, token_name="test").secret
        with Client(server.url, secret) as client:
            use(client, server, tmp_path, secret)
        assert radosgw.secret_key not in server.log
    finally:
        server.kill_all()
    keys = [each["Key"] for each in radosgw.client().list_objects_v2(Bucket=bucket)["Contents"]]
    assert any("/data/" in key for key in keys)
    assert any(key.startswith("hold/archives/") and key.endswith(".zip") for key in keys)
    assert not (server.data / "objects").exists(), "nothing lies on the server"


def use(client: Client, server: RunningServer, directory: Path, secret: str) -> None:
    first = Machine(directory / "machine-1", "gpu-1")
    try:
        enrolled(client, server.url, first)
        tree = make_tree(first.root / "project")
        (tree / "left-out.tmp").write_text("scratch")
        host = next(client.hosts.list(search="gpu-1"))
        source = client.sources.create(host.id, "/root/project", options={"exclude": ["*.tmp"]})
        schedule = client.schedules.create(
            source.id, preset="daily", retention={"max_age_days": 30}, archive_format="zip"
        )
        done = client.snapshots.wait(client.schedules.run(schedule.id), poll_seconds=0.25)
        assert (done.status, done.error_message) == ("COMPLETED", None)
        (tree / "left-out.tmp").unlink()
        expected = inventory(tree)
    finally:
        first.vanish()
    second = Machine(directory / "machine-2", "gpu-2")
    try:
        other = enrolled(client, server.url, second)
        back = client.restores.create(done.id, other, target="/root/project")
        back = client.restores.wait(back, poll_seconds=0.25)
        assert (back.status, back.error_message) == ("COMPLETED", None)
        compare(expected, inventory(second.root / "project"))
    finally:
        second.vanish()
    archive = directory / "whole.zip"
    client.data.download_archive(done.id, str(archive))
    subprocess.run(["unzip", "-tq", archive], check=True)
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
    access = client.repositories.access(next(client.repositories.list()).id)
    location = access.url.replace("TOKEN", secret)
    checked = subprocess.run(
        [restic_named("NEW"), "-r", location, "--no-cache", "check", "--read-data"],
        env={**os.environ, "RESTIC_PASSWORD": access.password},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
