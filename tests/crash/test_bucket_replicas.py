"""A bucket behind two replicas on PostgreSQL: both tell the same, whoever of them is killed.

Spec lines: T5, B6, H1.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bucket_aftermath import look_at_bucket
from bucket_site import BucketSite
from control_database import Cluster
from crash_cases import again, share_of_cases

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("bucket-crash")]
pytest_plugins = ("crash_fixtures",)

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that have found a mistake."""


@pytest.fixture
def site(postgresql_cluster: Cluster, tmp_path: Path) -> Iterator[BucketSite]:
    with postgresql_cluster.fresh("template0") as url:
        # Elsewhere the cluster promises nothing, to be quick.
        name = url.partition("?")[0].rpartition("/")[2]
        postgresql_cluster.sql(f"ALTER DATABASE {name} SET synchronous_commit TO on")
        made = BucketSite(tmp_path, url)
        try:
            made.furnish(replicas=2)
            yield made
        finally:
            made.close()


@share_of_cases(0.003)
def test_replicas_are_killed_in_turn(site: BucketSite, seed: int) -> None:
    again("test_replicas_are_killed_in_turn", seed)
    chance = random.Random(f"bucket replicas {seed}")
    site.open_for_business(writers=4, readers=2)
    try:
        for server in (*site.servers, *site.servers):
            site.wait_for_words(2)
            time.sleep(chance.uniform(0, 1.0))
            server.restart()
        site.wait_for_words(5)
    finally:
        site.close_shop()
    look_at_bucket(site)
