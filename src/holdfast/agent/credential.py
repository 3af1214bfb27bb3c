"""The host's credential: one file that only its owner may read.

It is written whole or not at all, and a file that others could read is refused, so that a
wrong mode is noticed and not lived with. It is never logged and never among the settings.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

import orjson

from holdfast.errors import NotSignedIn, UsageError
from holdfast.model.guarded_path import Root, roots_of


@dataclass(frozen=True, slots=True)
class Credential:
    """Who this host is to the control plane, and as what it was enrolled where."""

    host_id: str
    secret: str = field(repr=False)
    server: str
    name: str = ""
    roots: tuple[Root, ...] = ()


def read_credential(path: str) -> Credential:
    """The credential in that file; `NotSignedIn` where the host was not enrolled yet."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotSignedIn(
            f"This host is not enrolled: {path} does not exist. Enrol it with `holdfast agent "
            "enrol` and a token from the server."
        ) from None
    except OSError as error:
        raise UsageError(f"The credential file {path} cannot be read: {error.strerror}.") from None
    with open(file, "rb") as opened:
        if stat.S_IMODE(os.fstat(file).st_mode) & 0o077:
            raise UsageError(
                f"The credential file {path} can be read by others; run `chmod 600 {path}`, and "
                "enrol the host again if somebody may have read it."
            )
        text = opened.read()
    try:
        document = orjson.loads(text)
        return Credential(
            str(document["host_id"]),
            str(document["credential"]),
            str(document["server"]),
            str(document.get("name", "")),
            tuple(roots_of(document.get("roots", ()))),
        )
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"The credential file {path} is not what the enrolment wrote; enrol this host again."
        ) from None


def write_credential(path: str, credential: Credential) -> None:
    """Put the credential on disk, in place of one that is there."""
    document = {
        "host_id": credential.host_id,
        "credential": credential.secret,
        "server": credential.server,
        "name": credential.name,
        "roots": [{"path": root.path, "directory": root.directory} for root in credential.roots],
    }
    write_private(path, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def write_private(path: str, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all, and durably."""
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    temporary = f"{path}.new"
    file = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    with open(file, "wb") as opened:
        os.fchmod(file, 0o600)
        opened.write(content)
        opened.flush()
        os.fsync(file)
    os.replace(temporary, path)
    sync_directory(directory)


def sync_directory(path: str) -> None:
    """Put a directory's entries on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
