"""A server that is killed while objects are put: what was acknowledged is there, and whole."""

from __future__ import annotations

import hashlib
import random
import re
import threading
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from running_server import RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("up")]


def client_of(server: RunningServer, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"{server.url}/s3",
        aws_access_key_id=server.announced["owner_email"],
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, connect_timeout=5, read_timeout=30),
    )


def content_of(key: str) -> bytes:
    chosen = random.Random(key)
    return chosen.randbytes(chosen.choice([10, 100_000, 3_000_000]))


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    server = RunningServer(tmp_path)
    acknowledged: set[str] = set()
    tried: set[str] = set()
    try:
        server.start()
        server.login()
        login = (tmp_path / "home/.config/holdfast/login.json").read_text()
        found = re.search(r"hf_[A-Za-z0-9_-]+", login)
        assert found is not None
        secret = found[0]
        client = client_of(server, secret)
        client.create_bucket(Bucket="kept")
        client.close()
        for round_number in range(3):
            client = client_of(server, secret)
            enough = threading.Event()

            def put(
                worker: int,
                client: Any = client,
                round_number: int = round_number,
                enough: threading.Event = enough,
            ) -> None:
                for number in range(1000):
                    key = f"{round_number}/{worker}/{number}"
                    tried.add(key)
                    try:
                        client.put_object(Bucket="kept", Key=key, Body=content_of(key))
                    except (BotoCoreError, ClientError):
                        return
                    acknowledged.add(key)
                    if number >= 3:
                        enough.set()

            threads = [threading.Thread(target=put, args=(worker,)) for worker in range(3)]
            for thread in threads:
                thread.start()
            assert enough.wait(60)
            server.kill_all()
            for thread in threads:
                thread.join()
            client.close()
            server.start()
        client = client_of(server, secret)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="kept")
        there = {each["Key"]: each for page in pages for each in page.get("Contents", [])}
        assert acknowledged <= set(there) <= tried
        for key, found in there.items():
            data = client.get_object(Bucket="kept", Key=key)["Body"].read()
            assert data == content_of(key)
            assert found["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
        client.close()
        server.stop()
    finally:
        server.kill_all()
