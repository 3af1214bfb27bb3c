"""Input buckets, copied into an instance's directory before its command starts, and later.

Objects come through the region's gateway with the host's credential, one after another and
never whole in memory. Each is written below the directory or not at all: names that climb,
and links that a restored state holds, lead nowhere. Invariants: room is looked at before
anything is fetched; what was fetched has the size, and where it is known the digest, that
the bucket says; whoever reads or lists the directory, a capture too, sees a file as it was or
as it is, never a part of it: that lies aside, on the same file system, until it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import os
import ssl
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn, TypeVar
from urllib.parse import quote

import httpx
import orjson

from holdfast.agent.jobs.context import JobContext
from holdfast.agent.jobs.task_spec import Input
from holdfast.agent.pauses import Pauses
from holdfast.errors import (
    HoldfastError,
    NotFound,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    TargetError,
    TargetFull,
    UsageError,
)
from holdfast.model.finding import Finding
from holdfast.model.guarded_path import MAX_NAME_BYTES
from holdfast.model.progress import Progress

T = TypeVar("T")

_PAGE: Final = 1000
_ATTEMPTS: Final = 5
_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_WALK: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PART: Final = "part"
_LABEL: Final = "security.selinux"
_MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class InputObject:
    """One object of a bucket; `etag` is a digest where it is 32 hexadecimal digits."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was copied."""

    objects: int
    copied_bytes: int
    findings: tuple[Finding, ...] = ()


def fetch_inputs(
    context: JobContext,
    inputs: Sequence[Input],
    directory: bytes,
    *,
    aside: bytes,
    check: Callable[[], None],
    newer_than: datetime | None = None,
) -> Fetched:
    """Copy the objects of the inputs into a directory; a later input wins.

    With `newer_than` only objects that came or were replaced after it; a file that is there
    already is replaced, and nothing is removed.

    `aside` is a directory for what is not whole yet, of which nobody else makes use; it is
    made, and what a killed attempt has left there goes.

    `check` is called between pieces and may raise, to stop. Raises `NotFound` where a bucket
    or an object is not there (any more), `TargetFull` where there is not enough room.
    """
    with _gateway(context) as gateway, _emptied(aside, like=directory) as incoming:
        found, findings = _wanted(gateway, inputs, check, newer_than)
        total = sum(each.size_bytes for each in found)
        _check_room(directory, total)
        # What is copied later is no stage of the job: its computation goes on meanwhile.
        report = context.stage("inputs") if newer_than is None else _say_nothing
        count = done = 0
        for number, wanted in enumerate(found):
            report(Progress("inputs", number, len(found), done, total, wanted.key))
            if not gateway.copy(wanted, directory, incoming, check):
                findings.append(
                    Finding("input_left_out", _IN_THE_WAY, f"{wanted.bucket}/{wanted.key}")
                )
                continue
            count += 1
            done += wanted.size_bytes
    return Fetched(count, done, tuple(findings))


def _wanted(
    gateway: _Gateway,
    inputs: Sequence[Input],
    check: Callable[[], None],
    newer_than: datetime | None,
) -> tuple[list[InputObject], list[Finding]]:
    """What is to be copied, for each path the last one; and what cannot be."""
    found: dict[tuple[str, ...], tuple[InputObject, bool]] = {}
    findings: list[Finding] = []
    for each in inputs:
        for listed in gateway.objects(each, check):
            is_new = newer_than is None or _is_newer(listed.modified_at, newer_than)
            path = safe_path(listed.key, each.strip_prefix)
            if path is None:
                if is_new:
                    subject = f"{each.bucket}/{listed.key}"
                    findings.append(Finding("input_left_out", _UNSAFE, subject))
            elif path:
                one = InputObject(each.bucket, listed.key, listed.size_bytes, listed.etag, path)
                # Anew at the end: an older object of a later input wins over a new one before.
                found.pop(path, None)
                found[path] = (one, is_new)
    return [one for one, is_new in found.values() if is_new], findings


def _is_newer(modified_at: datetime | None, than: datetime) -> bool:
    """Lists have milliseconds: what came in the same one counts as newer."""
    than = than.replace(microsecond=than.microsecond // 1000 * 1000)
    return modified_at is not None and modified_at >= than


def _say_nothing(progress: Progress) -> None:
    """Nobody is told."""


_UNSAFE: Final = (
    "its name is no path below /job, so it was not copied; give it another key, without '..' "
    "or components over 255 bytes"
)
_IN_THE_WAY: Final = (
    "something is in the way of its path (a file where a directory is needed, or a link that "
    "leads elsewhere), so it was not copied; give it another key"
)


def safe_path(key: str, strip_prefix: str = "") -> tuple[str, ...] | None:
    """The path of an object below the directory; empty for nothing to write, None if unsafe."""
    if strip_prefix and key.startswith(strip_prefix):
        key = key.removeprefix(strip_prefix)
    if not key or key.endswith("/"):
        return ()  # what clients make to show a directory
    parts = tuple(part for part in key.split("/") if part)
    for part in parts:
        if part in (".", "..") or "\0" in part or len(os.fsencode(part)) > MAX_NAME_BYTES:
            return None
    return parts


def _check_room(directory: bytes, needed_bytes: int) -> None:
    room = os.statvfs(directory)
    free = room.f_bavail * room.f_frsize
    if needed_bytes > free:
        raise TargetFull(
            f"The inputs are {needed_bytes} bytes and the host has {free} free for tasks; free "
            "some there, or choose fewer inputs."
        )


@dataclass(frozen=True, slots=True)
class _Listed:
    key: str
    size_bytes: int
    etag: str
    modified_at: datetime | None


class _Gateway:
    """The objects of a region's buckets."""

    def __init__(self, client: httpx.Client, url: str, bytes_per_second: float | None) -> None:
        self._client, self._url, self._rate = client, url, bytes_per_second

    def objects(self, wanted: Input, check: Callable[[], None]) -> Iterator[_Listed]:
        after = ""
        while True:
            check()
            page, following = _page_of(self._page(wanted, after, check))
            yield from page
            if following is None:
                return
            after = following

    def _page(self, wanted: Input, after: str, check: Callable[[], None]) -> bytes:
        parameters = {"prefix": wanted.prefix, "after": after, "limit": str(_PAGE)}
        url = f"{self._url}/{quote(wanted.bucket, safe='')}/objects"

        def ask() -> bytes:
            response = self._client.get(url, params=parameters)
            if not response.is_success:
                _fail(response.status_code, f"the bucket {wanted.bucket}")
            return response.content

        return _again(ask, check)

    def copy(
        self, each: InputObject, directory: bytes, incoming: int, check: Callable[[], None]
    ) -> bool:
        """Write one object below the directory; False where something is in its way.

        `incoming` is a descriptor of the directory for what is not whole yet.
        """
        above = _above(directory, each.path[:-1])
        if above is None:
            return False
        try:
            name = each.path[-1]
            if _is_directory(name, above):
                return False
            _again(lambda: self._write(each, incoming, check), check)
            # In the stead of what an earlier input, a restored state or the command has there.
            os.rename(_PART, name, src_dir_fd=incoming, dst_dir_fd=above)
        except OSError as error:
            kind = TargetFull if error.errno == errno.ENOSPC else TargetError
            raise kind(f"/job/{'/'.join(each.path)} cannot be written: {error.strerror}.") from None
        finally:
            os.close(above)
        return True

    def _write(self, each: InputObject, incoming: int, check: Callable[[], None]) -> None:
        url = f"{self._url}/{quote(each.bucket, safe='')}/objects/{quote(each.key, safe='/')}"
        what = f"the object {each.key} of the bucket {each.bucket}"
        size, digest = 0, hashlib.md5(usedforsecurity=False)
        began = time.monotonic()
        descriptor = os.open(_PART, _MAKE, 0o644, dir_fd=incoming)
        try:
            with open(descriptor, "wb") as file, self._client.stream("GET", url) as response:
                if not response.is_success:
                    _fail(response.status_code, what)
                # As it comes: on a slow line, too, a check is never long in coming.
                for piece in response.iter_bytes():
                    check()
                    file.write(piece)
                    size += len(piece)
                    digest.update(piece)
                    self._slow_down(size, began)
            _compare(each, size, digest.hexdigest(), what)
            check()
        except BaseException:
            os.unlink(_PART, dir_fd=incoming)
            raise

    def _slow_down(self, size: int, began: float) -> None:
        if self._rate is not None:
            time.sleep(max(0.0, min(5.0, size / self._rate - (time.monotonic() - began))))


def _compare(each: InputObject, size: int, digest: str, what: str) -> None:
    known = each.etag.strip('"').lower()
    if size != each.size_bytes or (len(known) == 32 and known != digest):
        raise StoreUnavailable(
            f"What came of {what} is not what the bucket lists; it may have been replaced "
            "meanwhile."
        )


def _page_of(content: bytes) -> tuple[list[_Listed], str | None]:
    """The objects of a page of a list, and the key behind which the next one begins."""
    try:
        document = orjson.loads(content)
        following = document["next_after"]
        return [
            _Listed(
                str(each["key"]),
                int(each["size_bytes"]),
                str(each["etag"]),
                _time(each.get("modified_at")),
            )
            for each in document["objects"]
        ], None if following is None else str(following)
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            "The gateway's list of objects is none; is it of the agent's version?"
        ) from None


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _above(directory: bytes, path: Sequence[str]) -> int | None:
    """The directory that an object lies in, made where it is not there; the caller closes it."""
    here = os.open(directory, _WALK)
    for part in path:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=here)
            below = os.open(part, _WALK, dir_fd=here)
        except OSError as error:
            os.close(here)
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                return None  # a file, or a link
            raise TargetError(f"/job/{'/'.join(path)} cannot be made: {error.strerror}.") from None
        os.close(here)
        here = below
    return here


def _is_directory(name: str, above: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


@contextmanager
def _emptied(aside: bytes, *, like: bytes) -> Iterator[int]:
    """A descriptor of an empty directory, whose files may be moved into the one it is `like`."""
    with suppress(FileExistsError):
        os.mkdir(aside, 0o700)
    descriptor = os.open(aside, _WALK)
    try:
        for name in os.listdir(descriptor):
            os.unlink(name, dir_fd=descriptor)
        # A file has the label of the directory that it was made in, and keeps it. Without
        # SELinux there is none; who may not give it has not given one to the directory either.
        with suppress(OSError):
            label = os.getxattr(like, _LABEL, follow_symlinks=False)
            os.setxattr(aside, _LABEL, label, follow_symlinks=False)
        yield descriptor
    finally:
        os.close(descriptor)


def _again(act: Callable[[], T], check: Callable[[], None]) -> T:
    """Do it, and again a few times where that may help."""
    pauses = Pauses(0.5, 8.0)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return act()
        except (httpx.HTTPError, ssl.SSLError) as error:
            lost = StoreUnavailable("The gateway cannot be reached, or the connection was lost.")
            lost.__cause__ = error
        except StoreUnavailable as error:
            lost = error
        if attempt == _ATTEMPTS:
            raise lost
        until = time.monotonic() + pauses.next()
        while time.monotonic() < until:
            check()
            time.sleep(0.1)
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _gateway(context: JobContext) -> Iterator[_Gateway]:
    repository_id, url = str(context.repository["id"]), str(context.repository["url"])
    ending = f"/restic/{repository_id}/"
    if not url.endswith(ending):
        raise UsageError(
            "The repository's address is not one of a gateway; is the server of another version?"
        )
    trust = ssl.create_default_context()
    if context.ca_certificate is not None:
        trust.load_verify_locations(cadata=context.ca_certificate)
    headers = {
        "Authorization": f"Bearer {context.credential}",
        # What is stored is what is written; a length that is counted is that of the object.
        "Accept-Encoding": "identity",
    }
    with httpx.Client(verify=trust, headers=headers, timeout=_TIMEOUT) as client:
        buckets = f"{url.removesuffix(ending)}/data/v1/buckets"
        yield _Gateway(client, buckets, context.limit_download)


def _fail(status: int, what: str) -> NoReturn:
    if status == 404:
        raise NotFound(f"There is no such input: {what}; check the task's inputs.")
    kind: type[HoldfastError] = StoreError
    if status in (401, 403):
        kind = StoreDenied
    elif status in (408, 409, 429) or status >= 500:
        kind = StoreUnavailable
    raise kind(f"The gateway answered {status} about {what}.")
