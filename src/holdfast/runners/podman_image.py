"""From the name of a container image to content that does not change.

An image that this host has is used as it is; another one is pulled. Invariant: where a digest
was asked for, no other content is taken, whatever the tag says by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from holdfast.errors import ImageMissing
from holdfast.runners.podman_command import PodmanCommand

_REGISTRY: Final = "docker.io"


@dataclass(frozen=True, slots=True)
class Image:
    """The id of an image on this host, and the digest that it has everywhere."""

    id: str
    digest: str


def find_image(
    podman: PodmanCommand, name: str, digest: str | None, report: Callable[[str], None]
) -> Image:
    """The image, pulled if need be; raises `ImageMissing` where there is none to be had."""
    found = podman.image(name)
    if digest is not None and (found is None or not _has_digest(found, digest)):
        found = podman.image(f"{repository(name)}@{digest}")
    if found is None:
        wanted = qualified(name if digest is None else f"{repository(name)}@{digest}")
        report(f"Pulling the image {wanted}.")
        status, last = podman.followed("pull", wanted, report=report)
        if status != 0:
            raise ImageMissing(
                f"The image {wanted} is not on this host, and cannot be pulled: {last}. Check "
                "its name and tag, or bring it to the host."
            )
        found = podman.image(wanted)
        if found is None:
            raise ImageMissing(f"The image {wanted} was pulled and is gone again; try again.")
    return Image(found["Id"], found.get("Digest") or f"sha256:{found['Id']}")


def repository(name: str) -> str:
    """The name without tag and digest."""
    name, _, _ = name.partition("@")
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name


def qualified(name: str) -> str:
    """The name with its registry; without one, Docker's is meant, as everywhere."""
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"{_REGISTRY}/{name}" if slash else f"{_REGISTRY}/library/{name}"


def _has_digest(found: Mapping[str, Any], digest: str) -> bool:
    known = {found.get("Digest"), *(each.partition("@")[2] for each in found["RepoDigests"] or [])}
    return digest in known
