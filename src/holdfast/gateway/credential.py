"""Where a request carries its credential: in a header, or in a browser's cookie.

The cookie counts for requests that change nothing, so that no foreign page can make a
signed-in browser write or delete.
"""

from __future__ import annotations

import base64
import binascii

from starlette.requests import Request

from holdfast.errors import NotSignedIn

COOKIE = "holdfast_session"
_LONGEST = 4096
_HARMLESS = frozenset({"GET", "HEAD"})


def credential_of(request: Request) -> str:
    """The password of HTTP basic authentication, a bearer token, or the session's cookie.

    Raises `NotSignedIn` where there is none that can be meant.
    """
    header = request.headers.get("Authorization")
    if header is None:
        found = request.cookies.get(COOKIE, "") if request.method in _HARMLESS else ""
    else:
        scheme, _, rest = header.partition(" ")
        match scheme.lower():
            case "basic":
                found = _password(rest.strip())
            case "bearer":
                found = rest.strip()
            case _:
                found = ""
    if not found or len(found) > _LONGEST:
        raise NotSignedIn(
            "Give a credential: as the password of HTTP basic authentication with any user name, "
            "or as a bearer token."
        )
    return found


def _password(encoded: str) -> str:
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    return text.partition(":")[2]
