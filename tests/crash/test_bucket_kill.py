"""Kill -9 of a server while objects are written to a bucket, from several threads.

Every object that was acknowledged is there, byte for byte; one that was not is there whole or
not at all. Nobody who looks meanwhile sees anything else. Spec lines: T5, B6, M1.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest
from bucket_aftermath import let_it_be_swept, look_at_bucket
from bucket_site import PART_BYTES, Away, BucketSite, Version
from crash_cases import again, share_of_cases

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("bucket-crash")]
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""

DEATHS = (
    "dies_before_a_body",
    "dies_after_a_body",
    "dies_before_the_row",
    "dies_in_the_row",
    "dies_after_the_row",
    "dies_before_a_whole",
    "dies_after_a_whole",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketSite]:
    made = BucketSite(tmp_path_factory.mktemp("buckets"))
    try:
        made.furnish()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("death", DEATHS)
def test_a_death_at_a_step(site: BucketSite, death: str) -> None:
    """Between any two steps of a write: its bodies, its row, its answer."""
    server = site.servers[0]
    server.stop()
    server.plant = f"bucket_plants.{death}"
    server.start()
    site.open_for_business()
    try:
        deadline = time.monotonic() + 120
        while server.is_up:
            assert time.monotonic() < deadline, site.describe(f"nothing came to {death}")
            assert not site.failures, site.failures
            time.sleep(0.02)
        server.plant = "bucket_plants.workshop"
        server.start()
        site.wait_for_words(3)
    finally:
        site.close_shop()
    look_at_bucket(site)


@share_of_cases(0.01)
def test_kills_somewhere_in_a_bucket(site: BucketSite, seed: int) -> None:
    again("test_kills_somewhere_in_a_bucket", seed)
    chance = random.Random(f"bucket {seed}")
    site.open_for_business()
    try:
        for _ in range(3):
            site.wait_for_words(1)
            time.sleep(chance.uniform(0, 1.5))
            site.servers[0].restart()
        site.wait_for_words(5)
    finally:
        site.close_shop()
    look_at_bucket(site)


def test_after_a_week_nothing_is_left_over(site: BucketSite) -> None:
    """What was reserved, replaced or begun in parts goes; what is in use never does."""
    client = site.client()
    version = Version("parts/forsaken", 1, PART_BYTES, (PART_BYTES,))
    where = {"Bucket": "kept", "Key": version.key}
    where["UploadId"] = client.create_multipart_upload(**where)["UploadId"]
    client.upload_part(**where, PartNumber=1, Body=version.data)
    site.put(client, Version("replaced", 1, 300_000))
    site.put(client, Version("replaced", 2, 200_000))
    let_it_be_swept(site)


def test_a_request_to_nobody_is_no_acknowledgement(site: BucketSite) -> None:
    site.servers[0].stop()
    with pytest.raises(Away):
        site.put(site.client(), Version("nobody", 1, 10))
    assert "nobody" not in site.book.at_least()
    site.servers[0].start()
