"""The name of a snapshot: 1 to 50 characters out of letters, digits, space, ``-_.``.

Letters and digits are those of ASCII: names go into file names, object keys and other
vendors' clients, and must compare equal byte for byte. A space may not be first or last,
because two names that look the same would then differ. Whether a name is free is the
catalog's business.
"""

from __future__ import annotations

import re
from typing import Final

from holdfast.errors import UsageError

MAX_NAME_LENGTH: Final = 50

_FORBIDDEN = re.compile(r"[^A-Za-z0-9 _.-]")


def name_problem(name: str) -> str | None:
    """What is wrong with `name`, as a sentence that says what to do; None when it is valid."""
    if not name:
        return f"a name is required; give 1 to {MAX_NAME_LENGTH} characters"
    if len(name) > MAX_NAME_LENGTH:
        return f"the name has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed"
    if forbidden := _FORBIDDEN.search(name):
        return (
            f"the name contains {forbidden.group()!r}; "
            "use letters A-Z and a-z, digits, space, '-', '_' and '.'"
        )
    if name != name.strip(" "):
        return "the name begins or ends with a space; remove it"
    return None


def check_name(name: str) -> str:
    """Return `name` unchanged, or raise UsageError with the problem."""
    if problem := name_problem(name):
        raise UsageError(problem)
    return name


def name_length(name: str) -> str:
    """The live count for a form, such as ``25/50``."""
    return f"{len(name)}/{MAX_NAME_LENGTH}"
