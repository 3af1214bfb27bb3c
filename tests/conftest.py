"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import podman_store
import pytest
import radosgw as gateway
import slurm_cluster

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


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[podman_store.PodmanStore]:
    """A podman with a store of its own; tests that use it are of the group ``podman``."""
    missing = podman_store.missing_programs()
    reason = f"no {', '.join(missing)}: apt-get install {podman_store.PACKAGES}" if missing else ""
    if not missing:
        try:
            store = podman_store.make(tmp_path_factory.mktemp("podman"))
        except RuntimeError as error:
            reason = f"podman does not work here: {error}"
    if reason:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    yield store
    store.close()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Slurm]:
    """A real Slurm with one node; tests that use it are of the group ``slurm``."""
    missing = slurm_cluster.missing_programs()
    if missing:
        reason = f"no {', '.join(missing)}: apt-get install {slurm_cluster.PACKAGES}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    with slurm_cluster.running(shared / "slurm") as running:
        yield running
