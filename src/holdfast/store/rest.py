"""A store behind restic's REST protocol: a Holdfast gateway, or any other such server.

The only module of this layer that talks to httpx. The protocol (restic's document "REST
backend") names a repository's files by their kind and name, so only keys of a repository's
layout exist here: ``config``, ``data/xx/name``, ``keys/name``, ``locks/name``,
``snapshots/name`` and ``index/name``. Packs lie flat on the wire; the two digits are put back
here. Any other key is never found, and cannot be created.

What the protocol itself does not promise, and who keeps it:

- **Create-if-absent**: each creation says ``If-None-Match: *``, and a Holdfast gateway lets
  one of two writers win and answers the other 412. Other servers do not look at that
  header. restic's rest-server answers 403 where the name is taken, which is told apart from a
  refusal by a look at the name; it keeps two writers at the same moment apart for ``config``
  only. A server that overwrites without a word (rclone) breaks the obligation; all names but
  ``config`` are hashes of the content, so there it takes two creations of one repository at
  once to do harm.
- **Any content under any name**: a Holdfast gateway, like rest-server, refuses an object, other
  than ``config``, that is not named by the SHA-256 of its content.
- **Durable**: a server answers when the file is stored; how safely, it alone knows.
- **An empty repository and a wrong address** look the same to a listing: both are 404.

Credentials never stand in the location; they go out as basic authentication. One layer
retries, `RetryingStore`, which also settles a create whose answer was lost.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn
from urllib.parse import urlsplit

import httpx
import orjson

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from holdfast.store.key import check_key, check_prefix, check_range, is_segment
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import Buffer, ObjectInfo

_LIST_TYPE = "application/vnd.x.restic.rest.v2"
_FLAT = ("keys", "locks", "snapshots", "index")
_KINDS = ("data", *_FLAT)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")
_CONNECTIONS = 32
_SAID_LENGTH = 300


class RestStore:
    """An `ObjectStore` at an address; shareable, not fork-safe (connections would be shared)."""

    shareable = True
    fork_safe = False

    def __init__(self, url: str, options: StoreOptions) -> None:
        """`url` is the repository's address, which ends with a slash."""
        self._url = checked_url(url)
        self._options = options
        self._process = os.getpid()
        self._made = False
        self._making = threading.Lock()
        self._client = _client(options)

    def __reduce__(self) -> tuple[object, ...]:
        """For a worker process: the same place, with connections of its own."""
        return RestStore, (self._url, self._options)

    @property
    def location(self) -> str:
        return f"rest:{self._url}"

    def create(self, key: str, data: Buffer) -> None:
        """As the protocol says; after `StoreUnavailable` the object may be there or not."""
        check_key(key)
        path = _path(key)
        if path is None:
            raise UsageError(
                f"{key!r} cannot be stored in {self.location}: a repository server keeps a "
                "repository's own files and no others."
            )
        act = f"write {key}"
        if not self._made and (key == "config" or key.startswith("keys/")):
            self._make_repository(act)
        # A copy: the request may be sent again after the caller's buffer has changed.
        headers = {"If-None-Match": "*", "Content-Type": "application/octet-stream"}
        response = self._send("POST", path, act, headers=headers, content=bytes(data), patient=True)
        taken = response.status_code in (409, 412)
        if taken or (response.status_code == 403 and self._is_there(path)):
            raise ObjectExists(f"{key} exists already in {self.location}.")
        if not response.is_success:
            self._fail(response, act, key)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        check_range(offset, length)
        if length == 0:
            self.size(key)
            return b""
        path = self._existing(key)
        headers = {}
        if offset or length is not None:
            end = "" if length is None else offset + length - 1
            headers["Range"] = f"bytes={offset}-{end}"
        response = self._send("GET", path, f"read {key}", headers=headers)
        if response.status_code == 416:
            return b""
        if not response.is_success:
            self._fail(response, f"read {key}", key)
        if response.status_code != 206:
            # The whole object: what was asked for, or a server that knows no ranges.
            stop = None if length is None else offset + length
            return response.content[offset:stop]
        return self._checked_part(response, key, offset, length)

    def size(self, key: str) -> int:
        check_key(key)
        path = self._existing(key)
        response = self._send("HEAD", path, f"look at {key}")
        if not response.is_success:
            self._fail(response, f"look at {key}", key)
        try:
            return int(response.headers["content-length"])
        except (KeyError, ValueError):
            raise StoreError(
                f"Cannot look at {key} in {self.location}: the server does not say its size."
            ) from None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        kind, _, rest = prefix.partition("/")
        if not prefix:
            # It is no kind of file, and in no listing.
            yield from self._config()
        for each in _KINDS if not prefix else (kind,):
            if each not in _KINDS or (rest and each != "data"):
                continue
            for info in self._listed(each):
                if info.key.startswith(prefix):
                    yield info

    def delete(self, key: str) -> None:
        check_key(key)
        path = _path(key)
        if path is None:
            return
        response = self._send("DELETE", path, f"delete {key}")
        if not response.is_success and response.status_code != 404:
            self._fail(response, f"delete {key}", key)

    def close(self) -> None:
        """Close the connections, if they are this process's own."""
        if self._process == os.getpid():
            self._client.close()

    def _make_repository(self, act: str) -> None:
        """Ask for the directories of a new repository; for an old one this changes nothing."""
        with self._making:
            if self._made:
                return
            response = self._send("POST", "?create=true", act)
            # Where nothing may be made there may still be a repository: the write will tell.
            if not response.is_success and response.status_code not in (403, 404, 405, 409):
                self._fail(response, act, "")
            self._made = True

    def _is_there(self, path: str) -> bool:
        return self._send("HEAD", path, "look for an object").is_success

    def _existing(self, key: str) -> str:
        path = _path(key)
        if path is None:
            raise self._not_found(key)
        return path

    def _checked_part(
        self, response: httpx.Response, key: str, offset: int, length: int | None
    ) -> bytes:
        content = response.content
        if not content and not offset:
            return b""  # of an empty object there is no range to be named
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if (
            found is None
            or int(found[1]) != offset
            or int(found[2]) - offset + 1 != len(content)
            or (length is not None and len(content) > length)
        ):
            raise StoreUnavailable(
                f"Cannot read {key} in {self.location}: another part came than was asked for."
            )
        return content

    def _config(self) -> Sequence[ObjectInfo]:
        try:
            return [ObjectInfo("config", self.size("config"))]
        except ObjectNotFound:
            return []

    def _listed(self, kind: str) -> Sequence[ObjectInfo]:
        act = f"list {kind}/"
        response = self._send("GET", f"{kind}/", act, headers={"Accept": _LIST_TYPE})
        if response.status_code == 404:
            return []
        if not response.is_success:
            self._fail(response, act, "")
        try:
            found = [
                (str(each["name"]), int(each["size"]))
                for each in orjson.loads(response.content) or ()
            ]
        except (KeyError, ValueError, TypeError):
            raise StoreError(
                f"Cannot {act} in {self.location}: the answer is no list of names and sizes. "
                "Check the address; a server must know version 2 of the protocol."
            ) from None
        # A temporary file, or something a person put there, can be no object.
        return [ObjectInfo(_key(kind, name), size) for name, size in found if is_segment(name)]

    def _send(
        self,
        method: str,
        path: str,
        act: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        patient: bool = False,
    ) -> httpx.Response:
        self._check_process()
        options = self._options
        # While a large upload is stored the server is silent for good reason.
        silence = options.timeout_seconds if patient else options.stall_timeout_seconds
        timeout = httpx.Timeout(silence, connect=options.connect_timeout_seconds)
        try:
            return self._client.request(
                method, self._url + path, headers=headers, content=content, timeout=timeout
            )
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
            raise self._unanswered(error, f"Cannot {act} in {self.location}") from error

    def _unanswered(self, error: Exception, failed: str) -> HoldfastError:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return StoreError(f"{failed}: the server's certificate is not trusted.")
        if "WRONG_VERSION_NUMBER" in str(error):
            return StoreError(f"{failed}: the server does not speak TLS at that address.")
        if isinstance(error, httpx.TimeoutException):
            cause = "there was no answer in time"
        elif isinstance(error, httpx.ConnectError):
            cause = "the server cannot be reached"
        elif isinstance(error, httpx.TransportError) and not isinstance(
            error, httpx.UnsupportedProtocol | httpx.LocalProtocolError
        ):
            cause = "the connection was lost"
        else:
            return StoreError(f"{failed}: the request could not be made. Check the address.")
        return StoreUnavailable(f"{failed}: {cause}. Check the address and the network.")

    def _fail(self, response: httpx.Response, act: str, key: str) -> NoReturn:
        """Raise the error of our tree for an answer that is none of the expected ones."""
        status = response.status_code
        failed = f"Cannot {act} in {self.location}"
        said = f"{status}{_said(response)}"
        if status == 404:
            raise self._not_found(key)
        if status == 401:
            raise StoreDenied(
                f"{failed}: the server does not accept the credentials ({said}). Check "
                "RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD, and whether they were revoked."
            )
        if status == 403:
            raise StoreDenied(
                f"{failed}: the server refuses ({said}). The credentials lack that right, or the "
                "server only allows adding."
            )
        if status in (413, 507):
            raise StoreFull(f"{failed}: the server has no room ({said}). Free space there.")
        if status == 501:
            raise StoreError(f"{failed}: the server does not know this request ({said}).")
        if status in (408, 425, 429) or status >= 500:
            raise StoreUnavailable(f"{failed}: the server cannot answer now ({said}).")
        raise StoreError(f"{failed}: the server answered {said}. Check the address.")

    def _not_found(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.location} holds no object {key}.")

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise StoreError(
                f"The connection to {self.location} was opened before a fork and does not work "
                "in the child; open the location again there."
            )


def checked_url(url: str) -> str:
    """The address with its closing slash; raise `UsageError` for one that cannot be meant."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            "A repository server is written as rest:https://host:port/path/, with http or https."
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "A location must not hold credentials. Take them out of it and set "
            "RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD."
        )
    if parts.query or parts.fragment or re.search(r"\s", url) or "/../" in f"{parts.path}/":
        raise UsageError(f"{url!r} cannot be the address of a repository: it is plain names.")
    return url if url.endswith("/") else f"{url}/"


def _client(options: StoreOptions) -> httpx.Client:
    context = ssl.create_default_context()
    if options.ca_certificate is not None:
        try:
            context.load_verify_locations(cadata=options.ca_certificate)
        except (ssl.SSLError, ValueError) as error:
            raise UsageError("The certificate to trust is not one in PEM form.") from error
    credentials = None
    if options.rest_username is not None or options.rest_password is not None:
        credentials = httpx.BasicAuth(options.rest_username or "", options.rest_password or "")
    limits = httpx.Limits(
        max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=30
    )
    return httpx.Client(
        auth=credentials,
        verify=context,
        limits=limits,
        # Packs are sealed and do not compress; a proxy that tries would change their length.
        headers={"Accept-Encoding": "identity"},
    )


def _path(key: str) -> str | None:
    """Where a key lies below the repository's address; None where no server has such a place."""
    if key == "config":
        return key
    parts = key.split("/")
    if len(parts) == 2 and parts[0] in _FLAT:
        return key
    if len(parts) == 3 and parts[0] == "data" and parts[1] == parts[2][:2]:
        return f"data/{parts[2]}"
    return None


def _key(kind: str, name: str) -> str:
    return f"data/{name[:2]}/{name}" if kind == "data" else f"{kind}/{name}"


def _said(response: httpx.Response) -> str:
    """What a server says for people: its line of text, or that of its problem document."""
    kind = response.headers.get("content-type", "")
    detail: object = None
    if kind.startswith("text/plain"):
        detail = response.text
    elif kind.startswith("application/problem+json"):
        try:
            detail = orjson.loads(response.content)["detail"]
        except (ValueError, KeyError, TypeError):
            return ""
    if not isinstance(detail, str) or not detail.strip():
        return ""
    return f": {' '.join(detail.split())[:_SAID_LENGTH].rstrip('.')}"
