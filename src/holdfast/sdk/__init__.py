"""The client library: what a program needs to work with a Holdfast server."""

from __future__ import annotations

from holdfast.sdk.client import Client

__all__ = ["Client"]
