"""Signing in with a password, for long enough to make a token.

A password is sent once; what is kept afterwards is a token with rights of its own, which
can be seen, limited and revoked by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from holdfast.sdk.me import Me
from holdfast.sdk.record import from_json
from holdfast.sdk.tokens import IssuedToken
from holdfast.sdk.transport import Transport

# The server takes changes by a session only from its own pages, or from nobody's page.
_FROM_NO_PAGE = {"Sec-Fetch-Site": "none"}


def sign_in(
    url: str,
    email: str,
    password: str,
    *,
    token_name: str,
    rights: Iterable[str] | None = None,
    account_id: str | None = None,
    timeout_seconds: float = 30.0,
    pause: Callable[[float], None] = time.sleep,
) -> IssuedToken:
    """Sign in and make a token with these rights; by default with all that the person has.

    The session is ended again. `account_id` chooses where a person is in several accounts.
    """
    transport = Transport(url, "", timeout_seconds=timeout_seconds, attempts=3, pause=pause)
    try:
        body = {"email": email, "password": password}
        if account_id is not None:
            body["account_id"] = account_id
        transport.request("POST", "/api/v1/sessions", body=body)
        if rights is None:
            rights = from_json(Me, transport.get("/api/v1/me")).rights
        issued = transport.request(
            "POST",
            "/api/v1/tokens",
            body={"name": token_name, "rights": list(rights)},
            headers=_FROM_NO_PAGE,
        )
        transport.request("DELETE", "/api/v1/sessions/current", headers=_FROM_NO_PAGE)
        return from_json(IssuedToken, issued.document)
    finally:
        transport.close()
