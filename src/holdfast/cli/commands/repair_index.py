"""``holdfast repair index``: make the index anew from the packs."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.cli import text
from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser, add_confirmation

if TYPE_CHECKING:
    from holdfast.repo.reindex import IndexRepairPlan

_WORDS = {
    "add": "that no index file lists: added",
    "correct": "listed otherwise than their headers say: corrected",
    "drop": "listed but gone: taken out",
}


def configure(parser: Parser) -> None:
    parser.add_argument(
        "--read-all", action="store_true", help="check the index against the header of every pack"
    )
    add_confirmation(parser)


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.flows.repair import plan_index_repair, repair_index

    repository = invocation.open_repository()
    plan = plan_index_repair(
        repository, read_all=arguments.read_all, wait_seconds=invocation.wait_seconds
    )
    document = {
        "damaged_indexes": sorted(name.hex() for name in plan.damaged_indexes),
        "repairs": [
            {
                "pack": repair.pack.hex(),
                "action": repair.relisting.value,
                "blobs": repair.blobs,
                "size_bytes": repair.size_bytes,
            }
            for repair in plan.repairs
        ],
        "lost_blobs": plan.lost_blobs,
    }
    if arguments.dry_run:
        return Outcome(
            {"plan": document, "done": None},
            answer=[*_describe(plan), "dry run: nothing was changed"],
            findings=plan.findings,
        )
    if plan.does_nothing:
        return Outcome(
            {"plan": document, "done": None}, summary=_describe(plan), findings=plan.findings
        )
    invocation.confirm("make the index anew?", _describe(plan))
    result = repair_index(repository, plan, wait_seconds=invocation.wait_seconds)
    return Outcome(
        {"plan": document, "done": {"packs": result.packs, "seconds": round(result.seconds, 3)}},
        summary=[*_describe(plan), f"done in {text.duration(result.seconds)}"],
        findings=result.findings,
    )


def _describe(plan: IndexRepairPlan) -> Iterator[str]:
    if plan.does_nothing:
        yield "the index says what the packs hold; there is nothing to repair"
        return
    if plan.damaged_indexes:
        files = text.count(len(plan.damaged_indexes), "damaged index file")
        yield f"{files} replaced"
    for relisting, number in Counter(repair.relisting for repair in plan.repairs).items():
        yield f"{text.count(number, 'pack')} {_WORDS[relisting.value]}"
    if plan.lost_blobs:
        yield f"{text.count(plan.lost_blobs, 'blob')} were only in packs that are gone"
