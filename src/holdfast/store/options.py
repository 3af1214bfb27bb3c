"""How to open a store, apart from where it is: credentials, region, time limits.

A value that can be pickled, so that a worker process opens the very same store. Its repr
never shows a credential; it does no I/O and reads no environment.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.store.retry import ATTEMPTS


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What is None or empty is taken from the environment, as `location` describes.

    `path_style`: put the bucket into the path and not into the host name. `checksum`: the
    algorithm by which S3 checks what arrives (``sha256`` or ``crc64nvme``; empty for
    none); buckets with object lock accept no upload without one. `ca_certificate`: PEM
    text of an authority to trust besides the system's. `timeout_seconds` bounds one
    request from connecting to its last byte, `stall_timeout_seconds` the silence while
    reading; `attempts` counts the tries of one call.
    """

    endpoint_url: str | None = None
    region: str | None = None
    path_style: bool = True
    checksum: str = "sha256"
    ca_certificate: str | None = None

    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    google_service_account_path: str | None = None
    google_service_account_key: str | None = field(default=None, repr=False)

    azure_account_name: str | None = None
    azure_account_key: str | None = field(default=None, repr=False)
    azure_sas_token: str | None = field(default=None, repr=False)

    rest_username: str | None = None
    rest_password: str | None = field(default=None, repr=False)

    connect_timeout_seconds: float = 10.0
    timeout_seconds: float = 300.0
    stall_timeout_seconds: float = 60.0
    attempts: int = ATTEMPTS
