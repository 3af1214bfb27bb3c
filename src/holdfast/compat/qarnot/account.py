"""Where the buckets are, who the user is, and the profiles that a task can have.

What ``/info`` calls the e-mail address becomes the client's access key for buckets, with the
token as its secret. So it is the address of the token's owner, or, where a token belongs to
nobody in particular, the token's own id: both are found again when a request is signed.
"""

from __future__ import annotations

from typing import Any

from holdfast.compat import route
from holdfast.control import task_profiles, users
from holdfast.edge.call import Anybody, Asked
from holdfast.errors import NotFound

router = route.router()


@router.get("/settings")
def settings(visit: Anybody) -> dict[str, Any]:
    """The address of the buckets."""
    return {"storage": f"{visit.deployment.gateway_url}/s3"}


@router.get("/info")
def info(call: Asked) -> dict[str, Any]:
    """The user, and no limits: what is left out is unlimited to the client."""
    with call.reading() as tx:
        email = users.email_of(tx, call.who.user_id) if call.who.user_id else None
    return {"email": email or call.who.id}


@router.get("/profiles")
def profiles(call: Asked) -> list[str]:
    """The names of all profiles."""
    del call
    return [each.name for each in task_profiles.PROFILES]


@router.get("/profiles/{name}")
def profile(call: Asked, name: str) -> dict[str, Any]:
    """One profile, with the constants that it knows and their values by default."""
    del call
    found = next((each for each in task_profiles.PROFILES if each.name == name), None)
    if found is None:
        raise NotFound(f"There is no profile {name!r}; list the profiles.")
    return {
        "name": found.name,
        "constants": [{"name": each.name, "value": each.default} for each in found.constants],
    }
