"""From what a person writes, to an open store.

A location is a path, ``local:path``, ``s3://bucket/prefix``, ``gs://bucket/prefix`` or
``az://container/prefix``, or one as restic writes it: ``s3:https://host:port/bucket/prefix``,
``s3:host/bucket/prefix``, ``gs:bucket:/prefix``, ``azure:container:/prefix``,
``rest:https://host:port/path/``. (restic reads ``s3://host/bucket``; here what follows
``s3://`` is the bucket, as everywhere else.)

Credentials never stand in a location. What the options leave open comes from the
environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or
AWS_DEFAULT_REGION, AWS_ENDPOINT_URL; GOOGLE_APPLICATION_CREDENTIALS;
AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY and AZURE_STORAGE_SAS_TOKEN, or
restic's AZURE_ACCOUNT_NAME, AZURE_ACCOUNT_KEY and AZURE_ACCOUNT_SAS; RESTIC_REST_USERNAME
and RESTIC_REST_PASSWORD. Other means, such as a machine's own role, are those of obstore.

Opening makes no request. The client of a kind is imported only when such a store is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from holdfast.errors import UsageError
from holdfast.model.finding import Finding
from holdfast.store.options import StoreOptions
from holdfast.store.protocol import ObjectStore
from holdfast.store.retry import ReportRetry, RetryingStore, ignore_retry

if TYPE_CHECKING:
    from holdfast.store.cloud import CloudPlace

_SCHEME = re.compile(r"([a-z][a-z0-9+]+):")
_OTHERS = frozenset({"sftp", "rclone", "b2", "swift", "http", "https", "ftp", "file"})
_USER = re.compile(r"(?:(?<=//)|(?<=^s3:))[^/]*@")
_REST = "rest:"
_AWS_REGION = re.compile(
    r"(?:.*\.)?s3[.-](?:dualstack\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com"
)
_FORMS = (
    "Write a path, s3://bucket/prefix, s3:https://host/bucket/prefix, gs://..., az://... or "
    "rest:https://host/path/."
)


def open_store(
    location: str,
    options: StoreOptions | None = None,
    *,
    report_retry: ReportRetry = ignore_retry,
    report_finding: Callable[[Finding], None] = lambda _finding: None,
    environment: Mapping[str, str] = os.environ,
) -> ObjectStore:
    """Open the store at `location`; one behind a network comes wrapped in `RetryingStore`.

    Both reports may be called from any thread that uses the store. Raises `UsageError`
    for a location or options that cannot be meant.
    """
    path = local_path(location)
    if path is not None:
        from holdfast.store.local import LocalStore

        return LocalStore(path)
    options = _completed(options or StoreOptions(), environment)
    if location.startswith(_REST):
        from holdfast.store.rest import RestStore

        server = RestStore(location[len(_REST) :], options)
        return RetryingStore(server, attempts=options.attempts, report=report_retry)
    from holdfast.store.cloud import CloudStore

    place = _place(location, options, environment)
    if place.provider == "s3" and options.region is None and place.endpoint_url is not None:
        options = replace(options, region=_region_of(place.endpoint_url))
    store = CloudStore(place, options, report_finding)
    return RetryingStore(store, attempts=options.attempts, report=report_retry)


def local_path(location: str) -> str | None:
    """The path that `location` names, or None where it names a cloud or a server."""
    if not location:
        raise UsageError(f"The location is empty. {_FORMS}")
    scheme = _SCHEME.match(location)
    if scheme is None:
        return location
    if scheme[1] == "local":
        return location[len("local:") :]
    if scheme[1] in ("s3", "gs", "az", "azure", "rest"):
        return None
    if scheme[1] in _OTHERS or location[scheme.end() :].startswith("//"):
        raise UsageError(
            f"{scheme[1]}: is not a kind of store that Holdfast knows. {_FORMS} A directory of "
            f"that name is ./{scheme[1]}:..."
        )
    return location


def _place(location: str, options: StoreOptions, environment: Mapping[str, str]) -> CloudPlace:
    if _USER.search(location) is not None:
        raise UsageError(
            "A location must not hold credentials. Take them out of it and put them into the "
            "environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    scheme, _, rest = location.partition(":")
    if scheme == "s3":
        return _s3_place(location, rest, options, environment)
    if rest.startswith("//"):
        bucket, _, prefix = rest[2:].partition("/")
    else:
        bucket, colon, prefix = rest.partition(":")
        if not colon:
            raise UsageError(f"{location!r} names no bucket. Write {scheme}:bucket:/prefix.")
    provider = "gs" if scheme == "gs" else "az"
    return _checked(location, provider, bucket, prefix, options.endpoint_url)


def _s3_place(
    location: str, rest: str, options: StoreOptions, environment: Mapping[str, str]
) -> CloudPlace:
    if rest.startswith("//"):
        bucket, _, prefix = rest[2:].partition("/")
        if ":" in bucket or bucket.endswith(".amazonaws.com"):
            raise UsageError(
                f"{bucket} is a host and not a bucket. Write s3:{rest[2:]}, as restic also does."
            )
        endpoint = (
            options.endpoint_url
            or environment.get("AWS_ENDPOINT_URL_S3")
            or environment.get("AWS_ENDPOINT_URL")
            or None
        )
        return _checked(location, "s3", bucket, prefix, endpoint)
    address = rest if rest.startswith(("http://", "https://")) else f"https://{rest}"
    parts = urlsplit(address)
    bucket, _, prefix = parts.path.lstrip("/").partition("/")
    return _checked(location, "s3", bucket, prefix, f"{parts.scheme}://{parts.netloc}")


def _checked(
    location: str, provider: str, bucket: str, prefix: str, endpoint_url: str | None
) -> CloudPlace:
    from holdfast.store.cloud import CloudPlace

    if not bucket:
        raise UsageError(f"{location!r} names no bucket. {_FORMS}")
    segments = [segment for segment in prefix.split("/") if segment]
    if any(segment in (".", "..") for segment in segments) or re.search(r"[?#\s]", location):
        raise UsageError(f"{location!r} cannot be a location: a prefix is plain names and '/'.")
    if endpoint_url is not None:
        endpoint_url = endpoint_url.rstrip("/")
        parts = urlsplit(endpoint_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.username:
            raise UsageError(
                "The endpoint must be an address such as https://host:port, without credentials."
            )
    match provider:
        case "s3" | "gs" | "az":
            return CloudPlace(provider, bucket, "/".join(segments), endpoint_url)
        case _:
            raise UsageError(f"{location!r} is no kind of store. {_FORMS}")


def _completed(options: StoreOptions, environment: Mapping[str, str]) -> StoreOptions:
    """The options with what they leave open filled in from the environment.

    A pair of credentials is taken whole from one of the two, never half from each.
    """
    region = options.region or environment.get("AWS_REGION")
    region = region or environment.get("AWS_DEFAULT_REGION") or None
    completed = replace(options, region=region)
    if options.access_key_id is None and options.secret_access_key is None:
        completed = replace(
            completed,
            access_key_id=environment.get("AWS_ACCESS_KEY_ID") or None,
            secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY") or None,
            session_token=environment.get("AWS_SESSION_TOKEN") or None,
        )
    if options.azure_account_name is None:
        completed = replace(
            completed,
            azure_account_name=environment.get("AZURE_STORAGE_ACCOUNT_NAME")
            or environment.get("AZURE_ACCOUNT_NAME"),
        )
    if options.azure_account_key is None and options.azure_sas_token is None:
        completed = replace(
            completed,
            azure_account_key=environment.get("AZURE_STORAGE_ACCOUNT_KEY")
            or environment.get("AZURE_ACCOUNT_KEY"),
            azure_sas_token=environment.get("AZURE_STORAGE_SAS_TOKEN")
            or environment.get("AZURE_ACCOUNT_SAS"),
        )
    if options.rest_username is None and options.rest_password is None:
        completed = replace(
            completed,
            rest_username=environment.get("RESTIC_REST_USERNAME") or None,
            rest_password=environment.get("RESTIC_REST_PASSWORD") or None,
        )
    return completed


def _region_of(endpoint_url: str) -> str | None:
    """Amazon's hosts name their region, as restic's users rely on."""
    found = _AWS_REGION.fullmatch(urlsplit(endpoint_url).hostname or "")
    return None if found is None else found[1]
