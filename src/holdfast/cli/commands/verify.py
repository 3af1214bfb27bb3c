"""``holdfast verify``: check that all that is referred to is there and whole."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import text, values
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_workers, value_of
from holdfast.errors import UsageError
from holdfast.model.finding import Finding
from holdfast.model.quantity import print_bytes

if TYPE_CHECKING:
    from holdfast.flows.verify import VerifyResult
    from holdfast.repo.damage import DamagedSnapshot

_PATHS_SHOWN = 20

Share = tuple[int, int] | float


def share(text: str) -> Share:
    """``3/7``: the third of seven parts; ``5%``: so much of it, by chance."""
    part = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text, re.ASCII)
    if part is not None:
        return int(part[1]), int(part[2])
    try:
        return values.percentage(text)
    except UsageError:
        raise UsageError(f"{text!r} is not a share; write one such as 1/7 or 5%") from None


def configure(parser: Parser) -> None:
    reading = parser.add_mutually_exclusive_group()
    reading.add_argument("--read-data", action="store_true", help="read and check every byte")
    reading.add_argument(
        "--read-data-share",
        metavar="SHARE",
        type=value_of(share),
        help="read and check a part: 3/7 is the third of seven, which together are all; "
        "5%% is so much by chance",
    )
    add_workers(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.verify import VerifyRequest, verify

    part: Share | None = arguments.read_data_share
    request = VerifyRequest(
        read_data=arguments.read_data,
        percent=part if isinstance(part, float) else None,
        share=part if isinstance(part, tuple) else None,
        workers=invocation.workers,
        wait_for_lock_seconds=invocation.wait_seconds,
    )
    result = verify(invocation.open_repository(), request, invocation.progress)
    incomplete = tuple(map(_incomplete, result.damaged))
    return Outcome(
        _document(result),
        answer=_damage(result),
        summary=_summary(result),
        findings=(*result.findings, *incomplete),
    )


def _incomplete(snapshot: DamagedSnapshot) -> Finding:
    message = f"{text.count(len(snapshot.lost), 'path')} cannot be restored whole"
    return Finding("snapshot_incomplete", message, snapshot.id)


def _document(result: VerifyResult) -> dict[str, object]:
    return {
        "clean": result.clean,
        "snapshots": result.snapshots,
        "trees": result.trees,
        "packs": result.packs,
        "packs_read": result.packs_read,
        "bytes_read": result.bytes_read,
        "damaged_packs": list(result.damaged_packs),
        "damaged_snapshots": [
            {
                "id": each.id,
                "time": None if each.time is None else each.time.isoformat(),
                "hostname": each.hostname,
                "paths": list(each.paths),
                "lost": [{"path": lost.path, "reason": lost.reason} for lost in each.lost],
            }
            for each in result.damaged
        ],
        "notes": [note.as_dict() for note in result.notes],
        "seconds": round(result.seconds, 3),
    }


def _damage(result: VerifyResult) -> Iterator[str]:
    for each in result.damaged:
        when = "" if each.time is None else f" of {text.moment(each.time)}"
        yield f"snapshot {each.id[:8]}{when} lacks:"
        for lost in each.lost[:_PATHS_SHOWN]:
            yield f"  {text.name(lost.path)}: {lost.reason}"
        rest = len(each.lost) - _PATHS_SHOWN
        if rest > 0:
            yield f"  and {text.count(rest, 'more path')}"


def _summary(result: VerifyResult) -> Iterator[str]:
    for note in result.notes:
        yield f"note: {note.message} [{note.code}]"
    directories = text.count(result.trees, "directory", "directories")
    yield (
        f"{text.count(result.snapshots, 'snapshot')}, {directories}, "
        f"{text.count(result.packs, 'pack')}; {result.packs_read:,} read "
        f"({print_bytes(result.bytes_read)}) in {text.duration(result.seconds)}"
    )
    if result.clean and result.packs_read == result.packs:
        yield "nothing is wrong"
    elif result.clean:
        yield "nothing is wrong as far as was looked; --read-data reads everything"
    else:
        yield "the repository is damaged; do not prune it, and see docs/how-to/verify.md"
