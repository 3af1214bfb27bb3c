"""Which address a request to the outside goes to, when people choose the name.

Without this check an account could have the server ask the machines next to it: its own
loopback, a private network, a cloud's metadata service. Invariant: every address that a
name has is looked at, and the one that was looked at is the one that is used; the name is
not asked a second time.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from holdfast.errors import UsageError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Translators put an IPv4 address into the last 32 bits of these.
_NAT64: Final = (
    ipaddress.IPv6Network("64:ff9b::/96"),
    ipaddress.IPv6Network("64:ff9b:1::/48"),
)


def resolve(host: str, port: int, *, private_allowed: bool) -> list[str]:
    """The addresses of `host`, in the order in which they should be tried.

    `UsageError` where it has none, or where one of them is not public and that is not
    allowed. One bad address condemns the name: who owns it could choose the order.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"The name {host} has no address ({error}); check it.") from None
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not private_allowed:
        for each in addresses:
            if not is_public(ipaddress.ip_address(each.partition("%")[0])):
                raise UsageError(
                    f"{host} is {each}, which is not an address on the public internet. Use one "
                    "that is, or have the operator allow private addresses for webhooks."
                )
    return addresses


def is_public(address: Address) -> bool:
    """Whether this is an ordinary address on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
    )


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that this one stands for, where it does."""
    if any(address in network for network in _NAT64):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.teredo:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour
