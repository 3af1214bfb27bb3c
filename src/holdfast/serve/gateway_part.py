"""The gateway of a server: an app that asks the control plane over HTTP who may do what.

The same in one process with the API and alone; it never sees the database.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from starlette.applications import Starlette

from holdfast.gateway.app import make_app
from holdfast.gateway.http_authority import HttpAuthority
from holdfast.gateway.s3.http_index import HttpBucketIndex
from holdfast.serve.settings import Settings


def gateway_app(
    settings: Settings, control_url: str, credential: str, stack: ExitStack
) -> Starlette:
    """The app; what it needs is closed by `stack`."""
    authority = HttpAuthority(control_url, credential)
    stack.callback(authority.close)
    index = HttpBucketIndex(control_url, credential)
    stack.callback(index.close)
    cache = os.path.join(settings.data_directory, "gateway-cache")
    return make_app(
        authority,
        cache_directory=cache,
        index=index,
        trusted_proxies=settings.proxy_networks,
    )
