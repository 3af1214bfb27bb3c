"""What of the podman runner needs no podman."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import RunnerUnavailable, StartFailed
from holdfast.runners.podman import PodmanRunner
from holdfast.runners.podman_image import qualified, repository
from holdfast.runners.runner import Command, Place

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("ubuntu", "docker.io/library/ubuntu"),
        ("ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("library/ubuntu", "docker.io/library/ubuntu"),
        ("pytorch/pytorch:2.9", "docker.io/pytorch/pytorch:2.9"),
        ("quay.io/fedora/fedora:43", "quay.io/fedora/fedora:43"),
        ("localhost/mine", "localhost/mine"),
        ("registry:5000/mine:1", "registry:5000/mine:1"),
    ],
)
def test_a_name_without_a_registry_is_dockers(name: str, whole: str) -> None:
    assert qualified(name) == whole


@pytest.mark.parametrize(
    "name", ["registry:5000/mine", "registry:5000/mine:1", f"registry:5000/mine@{DIGEST}"]
)
def test_the_repository_is_the_name_without_tag_and_digest(name: str) -> None:
    assert repository(name) == "registry:5000/mine"


def test_without_podman_it_says_so(tmp_path: Path) -> None:
    runner = PodmanRunner(("no-such-podman",))
    assert runner.inventory() is None
    place = Place(tmp_path / "place")
    place.make()
    with pytest.raises(RunnerUnavailable, match="Install podman"):
        runner.start(place, Command(argv=(), image="ubuntu"))
    assert runner.status(place).kind == "none"


def test_without_an_image_nothing_starts(tmp_path: Path) -> None:
    place = Place(tmp_path / "place")
    place.make()
    with pytest.raises(StartFailed, match="name one"):
        PodmanRunner().start(place, Command(argv=("true",)))
