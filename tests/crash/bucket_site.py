"""A site with a bucket, people who write to it all the time, and one who reads all the time.

Every object's bytes follow from its key and version, and each key has one writer. So it is
known which bytes may be under a key at any moment: those of the last version that was
acknowledged, or of one that was begun since. Clients repeat nothing by themselves.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from control_site import Site
from sqlalchemy import select

from holdfast.control import tokens
from holdfast.control.principal import ALL_RIGHTS, Principal
from holdfast.control.tables import Member

BUCKET = "kept"
KEYS_EACH = 4
LARGEST_BYTES = 400_000
PART_BYTES = 5 << 20
_REST_SECONDS = 0.05
_AWAY = frozenset({"ServiceUnavailable", "SlowDown"})
"""What a server says that comes up, or goes."""


@dataclass(frozen=True)
class Version:
    """What was written under a key once; `number` 0 is nothing."""

    key: str
    number: int
    size_bytes: int = 0
    parts: tuple[int, ...] = ()

    @property
    def data(self) -> bytes:
        return random.Random(f"{self.key} {self.number}").randbytes(self.size_bytes)

    @property
    def etag(self) -> str:
        if not self.number:
            return ""
        if not self.parts:
            return hashlib.md5(self.data).hexdigest()
        digests = [hashlib.md5(each).digest() for each in self.pieces()]
        return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"

    def pieces(self) -> list[bytes]:
        data, found, at = self.data, [], 0
        for size in self.parts:
            found.append(data[at : at + size])
            at += size
        return found


@dataclass
class Book:
    """What was begun and what was acknowledged, of all keys; thread-safe."""

    begun: dict[str, dict[str, Version]] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begins(self, version: Version) -> None:
        etag = version.etag
        with self._lock:
            self.begun.setdefault(version.key, {})[etag] = version

    def ends(self, version: Version) -> None:
        with self._lock:
            self.acknowledged[version.key] = version.number

    def at_least(self) -> dict[str, int]:
        with self._lock:
            return dict(self.acknowledged)

    def seen(self, key: str, etag: str, at_least: int) -> Version:
        """What is under a key, by its ETag ("" for nothing); fails where it cannot be there.

        `at_least` is what was acknowledged before it was looked for.
        """
        with self._lock:
            known = dict(self.begun.get(key, {}))
        if not etag and not at_least:
            return Version(key, 0)
        assert etag in known, f"{key} has the ETag {etag!r}, which nobody wrote"
        version = known[etag]
        assert version.number >= at_least, (
            f"{key} is there in version {version.number}, and {at_least} was acknowledged"
        )
        return version


class Away(Exception):
    """The server is not there; nobody knows what has become of the request."""


class BucketSite(Site):
    """Servers with a bucket; `book` is what its users know."""

    def furnish(self, plant: str = "bucket_plants.workshop", *, replicas: int = 1) -> None:
        for _ in range(replicas):
            server = self.add_server()
            server.plant = plant
            server.start()
        self.settle_in()
        self.make_repository()
        self.book = Book()
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._done = threading.Event()
        self.token = self._signing_token()
        self.client().create_bucket(Bucket=BUCKET)

    def _signing_token(self) -> tuple[str, str]:
        with self.database.write() as tx:
            user_id = tx.scalars(
                select(Member.user_id).where(Member.account_id == self.account_id)
            ).one()
            who = Principal("user", user_id, self.account_id, ALL_RIGHTS, user_id=user_id)
            rights = [right.value for right in ALL_RIGHTS]
            row, secret = tokens.issue(
                tx, who, name="s3", rights=rights, keys=self.keys, now=self.clock()
            )
            return row.id, secret

    def client(self, number: int = 0) -> Any:
        """Past the relay: a kill strikes in the middle of what is sent."""
        key, secret = self.token
        server = self.servers[number % len(self.servers)]
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{server.port}/s3",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=Config(
                retries={"total_max_attempts": 1}, read_timeout=30, connect_timeout=5,
                max_pool_connections=2,
            ),
        )  # fmt: skip

    # People

    def open_for_business(self, *, writers: int = 3, readers: int = 1) -> None:
        """From now on there are writers, one of whom writes in parts, and readers."""
        self._done.clear()
        self.looks = 0
        for number in range(writers):
            self._begin(partial(self._write, number), f"writer-{number}")
        self._begin(self._write_in_parts, "uploader")
        for number in range(readers):
            self._begin(partial(self._read, number), f"reader-{number}")

    def close_shop(self) -> None:
        """Wait until all have gone; fail where one of them saw what must not be."""
        self._done.set()
        for each in self._threads:
            each.join(60)
            assert not each.is_alive(), f"{each.name} does not end"
        self._threads.clear()
        if self.failures:
            raise self.failures[0]
        assert self.looks, "nobody could look"

    def close(self) -> None:
        self._done.set()
        super().close()
        for each in getattr(self, "_threads", ()):
            each.join(60)

    def _begin(self, act: Callable[[], None], name: str) -> None:
        def run() -> None:
            try:
                act()
            except BaseException as error:
                self.failures.append(error)
                self._done.set()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _write(self, which: int) -> None:
        name = f"w{which}"
        client, chance = self.client(which), random.Random(f"{self.seed} {name}")
        while not self._done.is_set():
            key = f"{name}/{chance.randrange(KEYS_EACH)}"
            number = len(self.book.begun.get(key, {})) + 1
            version = Version(key, number, chance.choice((1, 17, chance.randrange(LARGEST_BYTES))))
            try:
                self.put(client, version)
            except Away:
                self._done.wait(_REST_SECONDS)

    def put(self, client: Any, version: Version) -> None:
        self.book.begins(version)
        answer = attempted(
            lambda: client.put_object(Bucket=BUCKET, Key=version.key, Body=version.data)
        )
        assert answer["ETag"].strip('"') == version.etag
        self.book.ends(version)

    def _write_in_parts(self) -> None:
        client, chance = self.client(), random.Random(f"{self.seed} parts")
        while not self._done.is_set():
            key = f"parts/{chance.randrange(2)}"
            number = len(self.book.begun.get(key, {})) + 1
            last = chance.randrange(1, LARGEST_BYTES)
            version = Version(key, number, PART_BYTES + last, (PART_BYTES, last))
            try:
                self.upload(client, version)
            except Away:
                self._done.wait(_REST_SECONDS)

    def upload(self, client: Any, version: Version) -> None:
        """In parts. What fails is begun anew; only the last word is said until it is heard."""
        where = {"Bucket": BUCKET, "Key": version.key}
        where["UploadId"] = attempted(lambda: client.create_multipart_upload(**where))["UploadId"]
        parts = []
        for number, data in enumerate(version.pieces(), 1):
            sent = attempted(
                lambda number=number, data=data: client.upload_part(  # type: ignore[misc]
                    **where, PartNumber=number, Body=data
                )
            )
            parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        self.book.begins(version)
        while True:
            try:
                made = attempted(
                    lambda: client.complete_multipart_upload(
                        **where, MultipartUpload={"Parts": parts}
                    )
                )
            except Away:
                if self._done.wait(_REST_SECONDS):
                    raise
            else:
                break
        assert made["ETag"].strip('"') == version.etag
        self.book.ends(version)

    def _read(self, which: int) -> None:
        client, chance = self.client(which), random.Random(f"{self.seed} reader {which}")
        while not self._done.is_set():
            try:
                self.look(client, chance)
            except Away:
                self._done.wait(_REST_SECONDS)

    def look(self, client: Any, chance: random.Random) -> None:
        """List everything, and read some of it: each is whole, and none is older than promised."""
        before = self.book.at_least()
        page = attempted(lambda: client.list_objects_v2(Bucket=BUCKET))
        listed = {each["Key"]: each for each in page.get("Contents", ())}
        for key in before.keys() | listed.keys():
            each = listed.get(key, {"ETag": "", "Size": 0})
            version = self.book.seen(key, each["ETag"].strip('"'), before.get(key, 0))
            assert each["Size"] == version.size_bytes
        for key in chance.sample(sorted(listed), min(3, len(listed))):
            before = self.book.at_least()
            version, data = self.read(client, key)
            self.book.seen(key, version.etag, before.get(key, 0))
            assert data == version.data, f"{key} is not what was written as {version.number}"
        self.looks += 1

    def read(self, client: Any, key: str) -> tuple[Version, bytes]:
        """What is under a key now, and its bytes."""

        def get() -> tuple[str, bytes]:
            answer = client.get_object(Bucket=BUCKET, Key=key)
            return answer["ETag"].strip('"'), answer["Body"].read()

        etag, data = attempted(get)
        assert etag in self.book.begun.get(key, {}), f"{key} has the ETag {etag}"
        return self.book.begun[key][etag], data

    def wait_for_words(self, count: int, seconds: float = 120.0) -> None:
        """Until so many more writes were acknowledged."""
        deadline, had = time.monotonic() + seconds, self._words()
        while self._words() < had + count and not self.failures:
            assert time.monotonic() < deadline, self.describe("nobody can write")
            time.sleep(0.02)

    def _words(self) -> int:
        return sum(self.book.at_least().values())


def attempted(act: Callable[[], Any]) -> Any:
    """The answer; `Away` where there is none, or where the server could not work just then."""
    try:
        return act()
    except ClientError as error:
        if error.response["Error"]["Code"] in _AWAY:
            raise Away from error
        raise
    except (BotoCoreError, OSError) as error:
        raise Away from error
