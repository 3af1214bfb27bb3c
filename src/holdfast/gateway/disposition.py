"""The name under which a browser saves a download (RFC 6266).

Every name is given twice: in plain ASCII for old programs, and in UTF-8. Bytes that are not
UTF-8 become ``%FF``, as in our ZIP archives.
"""

from __future__ import annotations

from string import ascii_letters, digits
from urllib.parse import quote

_PLAIN = frozenset(ascii_letters + digits + " !#$&'()+,-.;=@[]^_`{}~")
_LONGEST, _LONGEST_ENDING = 200, 10


def attachment(name: bytes) -> str:
    """The value of ``Content-Disposition`` for a file of that name."""
    text = name.decode("utf-8", "surrogateescape")
    text = "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in text)
    # No separators, and nothing that cannot be seen; a name of dots only is none.
    text = "".join("_" if c in "/\\" or not c.isprintable() else c for c in text)
    if len(text) > _LONGEST:
        stem, dot, ending = text.rpartition(".")
        kept = dot + ending if stem and len(ending) <= _LONGEST_ENDING else ""
        text = text[: _LONGEST - len(kept)] + kept
    if not text.strip(". "):
        text = "download"
    plain = "".join(c if c in _PLAIN else "_" for c in text)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(text, safe='')}"
