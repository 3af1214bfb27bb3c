"""``holdfast bucket ...``: buckets and what is in them, without an S3 client."""

from __future__ import annotations

import os
import re
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser
from holdfast.cli.verbs import Doing, Listing, argument, column, declare, document_of, size
from holdfast.errors import TargetNotEmpty, UsageError
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.sdk.client import Client

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_BUCKET = argument("bucket", metavar="BUCKET", help="its name")
_KEY = argument("key", metavar="KEY", help="the object's key")


def _create(client: Client, arguments: Namespace) -> Any:
    if not _NAME.fullmatch(arguments.bucket):
        raise UsageError(
            f"{arguments.bucket!r} cannot be a bucket's name: 3 to 63 letters in lower case, "
            "digits, hyphens and dots, a letter or digit first and last."
        )
    return client.buckets.create(arguments.bucket)


def _remove(client: Client, arguments: Namespace) -> Any:
    client.buckets.remove(arguments.bucket, contents=arguments.contents)


def _delete(client: Client, arguments: Namespace) -> Any:
    client.buckets.delete_object(arguments.bucket, arguments.key)


class Get:
    """``bucket get``: an object into a file."""

    def configure(self, parser: Parser) -> None:
        declare(parser, (_BUCKET, _KEY))
        parser.add_argument(
            "-o", "--output", metavar="FILE", help="where to (default: by its name, here)"
        )

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        target = arguments.output or os.path.basename(arguments.key) or "object"
        if os.path.isdir(target):
            target = os.path.join(target, os.path.basename(arguments.key) or "object")
        if os.path.lexists(target):
            raise TargetNotEmpty(f"{target} is there already; choose another name with -o.")
        with invocation.client() as client:
            size_bytes = client.buckets.download(
                arguments.bucket, arguments.key, target, report=invocation.progress
            )
        return Outcome(
            {"download": {"file": os.path.abspath(target), "bytes": size_bytes}},
            summary=[f"{print_bytes(size_bytes)} in {target}"],
        )


class Put:
    """``bucket put``: a file as an object."""

    def configure(self, parser: Parser) -> None:
        declare(parser, (_BUCKET,))
        parser.add_argument("file", metavar="FILE", help="what to store")
        parser.add_argument("--key", metavar="KEY", help="its key (default: the file's name)")

    def run(self, arguments: Namespace, invocation: Invocation) -> Outcome:
        key = os.path.basename(arguments.file) if arguments.key is None else arguments.key
        with invocation.client() as client:
            found = client.buckets.upload(
                arguments.bucket, key, arguments.file, report=invocation.progress
            )
        return Outcome(
            document_of("object", found),
            summary=[f"{print_bytes(found.size_bytes)} in {arguments.bucket}/{key}"],
        )


VERBS = {
    "list": Listing(
        "bucket",
        lambda client, _arguments: client.buckets.list(),
        (
            column("name"),
            column("objects", right=True),
            size("stored", "stored_bytes"),
            column("made", "created_at"),
        ),
    ),
    "create": Doing(
        "bucket",
        _create,
        lambda bucket, _arguments: f"the bucket {bucket.name} is there",
        (_BUCKET,),
    ),
    "remove": Doing(
        "bucket",
        _remove,
        lambda _bucket, arguments: f"the bucket {arguments.bucket} is removed",
        (
            _BUCKET,
            argument("--contents", action="store_true", help="with everything that is in it"),
        ),
        asks=lambda arguments: f"remove the bucket {arguments.bucket}?",
    ),
    "ls": Listing(
        "object",
        lambda client, arguments: client.buckets.objects(arguments.bucket, arguments.prefix),
        (size("size", "size_bytes"), column("modified", "modified_at"), column("key")),
        (
            _BUCKET,
            argument("--prefix", metavar="PREFIX", default="", help="only keys that begin so"),
        ),
    ),
    "get": Get(),
    "put": Put(),
    "rm": Doing(
        "object",
        _delete,
        lambda _object, arguments: f"{arguments.key} is deleted",
        (_BUCKET, _KEY),
        asks=lambda arguments: f"delete {arguments.bucket}/{arguments.key}?",
    ),
}
