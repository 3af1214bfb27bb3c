"""One S3 request: whose it is, what it asks for, and the parameters that came with it.

The key is taken from the path as it was sent: percent-decoded once, every other character as
it stands, so that ``+``, ``//``, ``.`` and ``..`` mean themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request

from holdfast.gateway.s3.incoming import Expected, expected_of
from holdfast.gateway.s3.index import Caller
from holdfast.gateway.s3.peer import Peer
from holdfast.gateway.s3.refusal import S3Refused
from holdfast.gateway.s3.signature import ChunkSignatures, Claim, Presented

ROOT = "/s3"
_BUCKET_NAME = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+", re.ASCII)


class _AnyText(StringConvertor):
    """The rest of a path whatever is in it, line feeds too."""

    regex = "(?s:.*)"


register_url_convertor("key", _AnyText())


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose signature was checked. `bucket` and `key` are empty where not named."""

    request: Request
    presented: Presented
    claim: Claim
    peer: Peer
    caller: Caller
    bucket: str
    key: str
    query: Mapping[str, str]
    signing_key: bytes = field(repr=False)

    @property
    def method(self) -> str:
        return self.presented.method

    def header(self, name: str) -> str | None:
        return self.presented.header(name)

    def text(self, name: str, otherwise: str = "") -> str:
        return self.query.get(name, otherwise)

    def number(self, name: str, otherwise: int, most: int) -> int:
        """A whole number of the query; larger ones than `most` count as that."""
        text = self.query.get(name)
        if not text:
            return otherwise
        if not (text.isascii() and text.isdigit() and len(text) < 12):
            raise S3Refused(
                "InvalidArgument", f"{name} must be a whole number that is not negative."
            )
        return min(int(text), most)

    def expected(self, *, most: int | None = None) -> Expected:
        """What the request says of its body."""
        more = {} if most is None else {"most": most}
        return expected_of(
            self.presented,
            self.claim.payload,
            secure=self.peer.secure,
            presigned=self.claim.presigned,
            **more,
        )

    def signatures(self) -> ChunkSignatures:
        return ChunkSignatures(self.claim, self.signing_key)


def presented_of(request: Request) -> Presented:
    """The request as its signer saw it; raises `S3Refused` for what is not UTF-8."""
    scope = request.scope
    raw_path = scope.get("raw_path") or scope["path"].encode()
    try:
        query = parse_qsl(
            scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            encoding="utf-8",
            errors="strict",
            max_num_fields=100,
        )
        path = raw_path.decode("ascii")
    except ValueError:
        raise S3Refused("InvalidURI", "The URI is not one: it must be UTF-8, encoded.") from None
    headers = tuple(
        (name.decode("latin-1").lower(), _value(value)) for name, value in scope["headers"]
    )
    return Presented(request.method, path.partition("?")[0], tuple(query), headers)


def place_of(raw_path: str) -> tuple[str, str]:
    """Bucket and key of a path below `ROOT`; empty where they are not named."""
    rest = raw_path.removeprefix(ROOT).removeprefix("/")
    bucket, _, key = rest.partition("/")
    return decoded(bucket), decoded(key)


def decoded(text: str) -> str:
    """Percent-decoded, and nothing else."""
    try:
        return unquote_to_bytes(text).decode("utf-8")
    except UnicodeDecodeError:
        raise S3Refused("InvalidURI", "A bucket's name and a key must be UTF-8.") from None


def check_bucket_name(name: str) -> None:
    """Raise `S3Refused` for what cannot be a bucket's name."""
    if _BUCKET_NAME.fullmatch(name) is None or _ADDRESS.fullmatch(name) is not None:
        raise S3Refused(
            "InvalidBucketName",
            "The specified bucket is not valid: a name has 3 to 63 lower case letters, digits, "
            "dots and hyphens, and begins and ends with a letter or digit.",
            BucketName=name,
        )


def _value(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
