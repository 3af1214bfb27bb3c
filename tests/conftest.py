"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import podman_store
import pytest
import radosgw as gateway
import slurm_cluster

pytest_plugins = ("control_database", "control_world", "api_fixture")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the crash tests; they can only be declared here."""
    parser.addoption("--crash-cases", type=int, help="how many random crashes to try")
    parser.addoption("--crash-seed", type=int, help="the seed of the first of them")


def _to_install(missing: list[str], packages: str) -> str:
    return f"no {', '.join(missing)}: apt-get install {packages}"


def _leave(reason: str) -> NoReturn:
    """Skip, and fail where everything has to run."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this test run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gateway.Radosgw]:
    """A real Ceph object gateway, one for all workers of this test run."""
    if missing := gateway.missing_programs():
        _leave(_to_install(missing, gateway.PACKAGES))
    with gateway.running(_of_the_run(tmp_path_factory) / "radosgw") as running:
        yield running


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[podman_store.PodmanStore]:
    """A podman with a store of its own; tests that use it are of the group ``podman``."""
    if missing := podman_store.missing_programs():
        _leave(_to_install(missing, podman_store.PACKAGES))
    try:
        store = podman_store.make(tmp_path_factory.mktemp("podman"))
    except RuntimeError as error:
        _leave(f"podman does not work here: {error}")
    yield store
    store.close()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Slurm]:
    """A real Slurm with one node; tests that use it are of the group ``slurm``."""
    if missing := slurm_cluster.missing_programs():
        _leave(_to_install(missing, slurm_cluster.PACKAGES))
    with slurm_cluster.running(_of_the_run(tmp_path_factory) / "slurm") as running:
        yield running
