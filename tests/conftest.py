"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import radosgw as gateway

pytest_plugins = ("control_database", "control_world", "api_fixture")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the crash tests; they can only be declared here."""
    parser.addoption("--crash-cases", type=int, help="how many random crashes to try")
    parser.addoption("--crash-seed", type=int, help="the seed of the first of them")


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gateway.Radosgw]:
    """A real Ceph object gateway, one for all workers of this test run."""
    missing = gateway.missing_programs()
    if missing:
        reason = f"no {', '.join(missing)}: apt-get install {gateway.PACKAGES}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    with gateway.running(shared / "radosgw") as running:
        yield running
