"""A store in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure Blob.

The only module that talks to obstore. An object is one upload with the condition "only if
the name is free" (``If-None-Match: *``); nothing of a repository is uploaded in parts,
replaced, or compared and swapped. obstore's own retries are off: one layer retries,
`RetryingStore`, which also settles a create whose answer was lost.

A stream (`CloudStore.create_stream`) is uploaded in parts, which take no condition: the name
is looked up before. As it cannot be repeated as a whole, obstore repeats its parts.

S3-compatible services exist that ignore that condition: Ceph 16 does in every bucket with
versions or object lock. So an instance does not believe it before it has seen it: the
first small object that it creates is uploaded a second time, and the service must refuse.
Until then, and for good where it does not refuse, each create first looks whether the
name is taken. That is safe against repeating a call, not against two writers at the same
moment, and is reported once as a finding (``create_not_exclusive``).

In a bucket with versions, deleting hides the newest version and frees nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

from holdfast.errors import (
    HoldfastError,
    ObjectExists,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from holdfast.model.finding import Finding
from holdfast.store.cloud_error import is_raced, status_of, translate
from holdfast.store.key import check_key, check_prefix, check_range
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import Buffer, ObjectInfo

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import (
        AzureConfig,
        AzureStore,
        ClientConfig,
        GCSConfig,
        GCSStore,
        RetryConfig,
        S3Config,
        S3Credential,
        S3Store,
    )

    Client = S3Store | GCSStore | AzureStore

T = TypeVar("T")

_PROBE_BYTES = 64 * 1024
_RACES = 5
_RACE_PAUSE_SECONDS = 0.1
_LIST_CHUNK = 1000
_NO_RETRIES: RetryConfig = {"max_retries": 0}
_PART_RETRIES: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(minutes=5)}
# S3 takes 10 000 parts; a stream of unknown length may have 320 GB with parts of this size.
_PARTS, _PART_BYTES, _LARGEST_PART_BYTES = 9_000, 32 << 20, 512 << 20
_PARTS_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """Which bucket of which provider, and below which prefix (without slashes at its ends)."""

    provider: Literal["s3", "gs", "az"]
    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None

    @property
    def location(self) -> str:
        path = "/".join(part for part in (self.bucket, self.prefix) if part)
        if self.provider == "s3" and self.endpoint_url is not None:
            return f"s3:{self.endpoint_url}/{path}"
        return f"{self.provider}://{path}"


class CloudStore:
    """An `ObjectStore` in a bucket; shareable, not fork-safe (its threads stay behind)."""

    shareable = True
    fork_safe = False

    def __init__(
        self,
        place: CloudPlace,
        options: StoreOptions,
        report: Callable[[Finding], None] = lambda _finding: None,
    ) -> None:
        self._place = place
        self._options = options
        self._report = report
        self._process = os.getpid()
        # Silence while reading means a dead connection; while a large upload is on its
        # way the service is silent for good reason. So there are two clients.
        reading = timedelta(seconds=options.stall_timeout_seconds)
        try:
            self._reader = _open(place, options, {"read_timeout": reading})
            self._writer = _open(place, options, {})
        except HoldfastError:
            raise
        except Exception as error:
            raise UsageError(
                f"{place.location} cannot be opened with these options; check the endpoint, "
                "the region and the form of the credentials."
            ) from error
        # None until it is known. Google and Azure promise it.
        self._exclusive: bool | None = None if place.provider == "s3" else True
        self._proving = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        """For a worker process: the same place, with connections of its own."""
        return CloudStore, (self._place, self._options)

    @property
    def location(self) -> str:
        return self._place.location

    def create(self, key: str, data: Buffer) -> None:
        """As the protocol says; after `StoreUnavailable` the object may be there or not."""
        check_key(key)
        self._check_process()
        if self._exclusive is None and memoryview(data).nbytes <= _PROBE_BYTES:
            with self._proving:
                if self._exclusive is None:
                    self._create_and_prove(key, data)
                    return
        self._create(key, data)

    def create_stream(
        self, key: str, chunks: Iterable[Buffer], *, size_bytes: int | None = None
    ) -> int:
        """As `StreamingStore` says; some parts of 32 MiB and more are in memory at once."""
        check_key(key)
        self._check_process()
        part_bytes = max(_PART_BYTES, -(-(size_bytes or 0) // _PARTS))
        if part_bytes > _LARGEST_PART_BYTES:
            raise UsageError(f"{key} would be too large for one object in a cloud.")
        try:
            self._size(key, f"write {key}")
        except ObjectNotFound:
            pass
        else:
            raise ObjectExists(f"{key} exists already in {self.location}.")
        streamed = _Streamed(chunks)
        try:
            _open(self._place, self._options, {}, _PART_RETRIES).put(
                key,
                streamed,
                use_multipart=True,
                chunk_size=part_bytes,
                max_concurrency=_PARTS_AT_ONCE,
            )
        except Exception as error:
            if streamed.failure is not None:
                raise streamed.failure from None
            raise self._translated(error, f"write {key}", key) from error
        return streamed.size_bytes

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        check_key(key)
        check_range(offset, length)
        self._check_process()
        options: GetOptions = {}
        if length == 0:
            self.size(key)
            return b""
        if length is not None:
            options = {"range": (offset, offset + length)}
        elif offset:
            options = {"range": {"offset": offset}}
        try:
            result = self._reader.get(key, options=options)
            begin, end = result.range
            data = result.bytes().to_bytes()
        except Exception as error:
            if status_of(error) == 416:
                return b""
            raise self._translated(error, f"read {key}", key) from error
        if len(data) != end - begin:
            raise StoreUnavailable(
                f"Cannot read {key} in {self.location}: {end - begin} bytes were promised and "
                f"{len(data)} came."
            )
        return data

    def size(self, key: str) -> int:
        check_key(key)
        self._check_process()
        return self._size(key, f"look at {key}")

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        self._check_process()
        try:
            for chunk in self._reader.list(prefix or None, chunk_size=_LIST_CHUNK):
                for found in chunk:
                    yield ObjectInfo(found["path"], found["size"])
        except Exception as error:
            raise self._translated(error, f"list {prefix or 'all objects'}", prefix) from error

    def delete(self, key: str) -> None:
        check_key(key)
        self._check_process()
        try:
            self._reader.delete(key)
        except Exception as error:
            found = self._translated(error, f"delete {key}", key)
            if not isinstance(found, ObjectNotFound):
                raise found from error

    def close(self) -> None:
        """Drop both clients, and with them their connections."""
        self.__dict__.pop("_reader", None)
        self.__dict__.pop("_writer", None)

    def _create(self, key: str, data: Buffer) -> None:
        if self._exclusive is not True:
            self._check_free(key)
        races = 0
        while True:
            try:
                self._writer.put(key, data, mode="create", use_multipart=False)
            except Exception as error:
                races += 1
                if is_raced(error) and races < _RACES:
                    time.sleep(_RACE_PAUSE_SECONDS * races)
                    continue
                raise self._translated(error, f"write {key}", key) from error
            else:
                return

    def _create_and_prove(self, key: str, data: Buffer) -> None:
        self._create(key, data)
        try:
            # The same bytes, so that a service which ignores the condition changes nothing.
            self._writer.put(key, data, mode="create", use_multipart=False)
        except Exception as error:
            # Anything else proves nothing either way; the next create tries once more.
            if isinstance(self._translated(error, f"write {key}", key), ObjectExists):
                self._exclusive = True
            return
        self._exclusive = False
        self._report(
            Finding(
                "create_not_exclusive",
                "The storage overwrites objects although it is asked not to, as some do in "
                "buckets with versions or object lock. Names are looked up before each write "
                "instead; let only one writer at a time create a repository here.",
                self.location,
            )
        )

    def _check_free(self, key: str) -> None:
        try:
            self._size(key, f"write {key}")
        except ObjectNotFound:
            return
        except StoreDenied:
            # Credentials that may only write: then the condition alone has to serve, which
            # is well unless the service is known to ignore it.
            if self._exclusive is False:
                raise
            return
        raise ObjectExists(f"{key} exists already in {self.location}.")

    def _size(self, key: str, act: str) -> int:
        try:
            return self._reader.head(key)["size"]
        except Exception as error:
            found = self._translated(error, act, key)
            if isinstance(found, ObjectNotFound | StoreDenied):
                # The answer to a HEAD has no body to tell what is missing or denied; a
                # missing bucket, above all, must not pass for a missing object.
                self._ask_why(key, act)
            raise found from error

    def _ask_why(self, key: str, act: str) -> None:
        try:
            self._reader.get_range(key, start=0, length=1)
        except Exception as error:
            found = self._translated(error, act, key)
            if not isinstance(found, ObjectNotFound):
                raise found from error

    def _translated(self, error: Exception, act: str, key: str) -> HoldfastError:
        if isinstance(error, HoldfastError):
            return error
        return translate(error, act, self.location, key)

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise StoreError(
                f"The connection to {self.location} was opened before a fork and does not work "
                "in the child; open the location again there."
            )


class _Streamed:
    """Counts what passes, and remembers what the source of a stream raised."""

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self._chunks = iter(chunks)
        self.size_bytes = 0
        self.failure: BaseException | None = None

    def __iter__(self) -> _Streamed:
        return self

    def __next__(self) -> Buffer:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            raise
        except BaseException as error:
            self.failure = error
            raise
        self.size_bytes += memoryview(chunk).nbytes
        return chunk


def _open(
    place: CloudPlace,
    options: StoreOptions,
    limits: ClientConfig,
    retries: RetryConfig = _NO_RETRIES,
) -> Client:
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=options.connect_timeout_seconds),
        "timeout": timedelta(seconds=options.timeout_seconds),
        "allow_http": (place.endpoint_url or "").startswith("http://"),
        **limits,
    }
    if options.ca_certificate is not None:
        client["root_certificate"] = options.ca_certificate
    if place.provider == "s3":
        return _open_s3(place, options, client, retries)
    if place.provider == "gs":
        return _open_google(place, options, client, retries)
    return _open_azure(place, options, client, retries)


def _open_s3(
    place: CloudPlace, options: StoreOptions, client: ClientConfig, retries: RetryConfig
) -> S3Store:
    from obstore.store import S3Store

    config: S3Config = {
        "conditional_put": "etag",
        # One DELETE per object: its answer is an HTTP status, and every service knows it.
        "disable_bulk_delete": True,
        "virtual_hosted_style_request": not options.path_style,
    }
    if options.checksum:
        config["checksum_algorithm"] = options.checksum
    credentials = _given_credentials(options)
    if credentials is not None:
        # Nor may AWS_SKIP_SIGNATURE of the environment turn them off.
        config["skip_signature"] = False
    if options.region is not None:
        config["region"] = options.region
    if place.endpoint_url is not None:
        endpoint = place.endpoint_url
        if not options.path_style:
            parts = urlsplit(endpoint)
            endpoint = parts._replace(netloc=f"{place.bucket}.{parts.netloc}").geturl()
        config["endpoint"] = endpoint
        # Otherwise that variable of the environment would overrule the location.
        config["aws_endpoint_url_s3"] = endpoint
    return S3Store(
        place.bucket,
        prefix=place.prefix or None,
        config=config,
        client_options=client,
        retry_config=retries,
        credential_provider=credentials,
    )


def _given_credentials(options: StoreOptions) -> Callable[[], S3Credential] | None:
    """Explicit credentials as a provider, so that none of the environment mixes with them."""
    if options.access_key_id is None and options.secret_access_key is None:
        return None
    if not options.access_key_id or not options.secret_access_key:
        raise UsageError("An access key and its secret must be given together.")
    credential: S3Credential = {
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
        "token": options.session_token,
        "expires_at": None,
    }
    return lambda: credential


def _open_google(
    place: CloudPlace, options: StoreOptions, client: ClientConfig, retries: RetryConfig
) -> GCSStore:
    from obstore.store import GCSStore

    config: GCSConfig = {}
    if place.endpoint_url is not None:
        config["base_url"] = place.endpoint_url
    if options.google_service_account_path is not None:
        config["service_account"] = options.google_service_account_path
    if options.google_service_account_key is not None:
        config["service_account_key"] = options.google_service_account_key
    return GCSStore(
        place.bucket,
        prefix=place.prefix or None,
        config=config,
        client_options=client,
        retry_config=retries,
    )


def _open_azure(
    place: CloudPlace, options: StoreOptions, client: ClientConfig, retries: RetryConfig
) -> AzureStore:
    from obstore.store import AzureStore

    config: AzureConfig = {}
    if place.endpoint_url is not None:
        config["endpoint"] = place.endpoint_url
    if options.azure_account_name is not None:
        config["account_name"] = options.azure_account_name
    if options.azure_account_key is not None:
        config["account_key"] = options.azure_account_key
    if options.azure_sas_token is not None:
        config["sas_key"] = options.azure_sas_token
    return AzureStore(
        place.bucket,
        prefix=place.prefix or None,
        config=config,
        client_options=client,
        retry_config=retries,
    )
