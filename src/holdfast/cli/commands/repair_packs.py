"""``holdfast repair packs``: save what can be saved from damaged packs."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_confirmation, add_other_repository
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.repo.salvage import SalvagePlan


def configure(parser: Parser) -> None:
    parser.add_argument(
        "packs",
        metavar="PACK",
        nargs="*",
        help="ids of packs, as `verify --read-data` names them; without any, and with --from, "
        "what snapshots need and no pack holds",
    )
    add_other_repository(
        parser, "from", "take what is lost here from this repository", required=False
    )
    add_confirmation(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.repair import plan_pack_repair, plan_replica_repair, repair_packs

    for pack in arguments.packs:
        if not re.fullmatch(r"[0-9a-f]{64}", pack):
            raise UsageError(
                f"{pack!r} is not the id of a pack; give all 64 digits that `holdfast verify "
                "--read-data` prints"
            )
    if not arguments.packs and arguments.other is None:
        raise UsageError("name packs to repair, or give --from a repository to mend from")
    repository = invocation.open_repository()
    replica = None
    if arguments.other is not None:
        replica = invocation.open_other(
            arguments.other, arguments.other_password_file, arguments.other_password_command
        )
    wait = invocation.wait_seconds
    if arguments.packs:
        plan = plan_pack_repair(repository, tuple(arguments.packs), replica, wait_seconds=wait)
    else:
        assert replica is not None
        plan = plan_replica_repair(repository, replica, wait_seconds=wait)
    document = _plan_document(plan)
    if arguments.dry_run:
        return Outcome(
            {"plan": document, "done": None},
            answer=[*_describe(plan), "dry run: nothing was changed"],
        )
    if not plan.does_nothing:
        invocation.confirm("repair the packs?", _describe(plan))
    result = repair_packs(repository, plan, replica, invocation.progress, wait_seconds=wait)
    return Outcome(
        {"plan": document, "done": {"packs": result.packs, "seconds": round(result.seconds, 3)}},
        summary=[*_describe(plan), f"done in {text.duration(result.seconds)}"],
        findings=result.findings,
    )


def _plan_document(plan: SalvagePlan) -> dict[str, object]:
    return {
        "packs": [
            {
                "pack": each.pack.hex(),
                "kept": len(each.kept),
                "mended": len(each.mended),
                "lost": [blob_id.hex() for _, blob_id in each.lost],
            }
            for each in plan.packs
        ],
        "mended": [blob_id.hex() for _, blob_id in plan.mended],
        "lost": [blob_id.hex() for _, blob_id in plan.lost],
    }


def _describe(plan: SalvagePlan) -> Iterator[str]:
    for each in plan.packs:
        yield (
            f"pack {each.pack.hex()[:16]}: {text.count(len(each.kept), 'blob')} kept, "
            f"{len(each.mended):,} from the other repository, {len(each.lost):,} lost"
        )
    if plan.mended:
        yield f"{text.count(len(plan.mended), 'missing blob')} from the other repository"
    if plan.unmended:
        yield f"{text.count(len(plan.unmended), 'missing blob')} are lost"
    if plan.lost:
        yield "`holdfast repair snapshots` then makes snapshots anew without what is lost"
    elif plan.does_nothing:
        yield "there is nothing to repair"
