"""``holdfast init``: make a repository."""

from __future__ import annotations

from argparse import Namespace

from holdfast.cli.invocation import Invocation, Outcome
from holdfast.cli.parser import Parser


def configure(parser: Parser) -> None:
    parser.add_argument(
        "--repository-version",
        type=int,
        choices=(1, 2),
        default=2,
        help="the format's version; 1 only for programs that know no other (default: 2)",
    )


def run(arguments: Namespace, invocation: Invocation) -> Outcome:
    from holdfast.repo.repository import Repository

    store = invocation.open_store()
    repository = Repository.create(
        store,
        invocation.password(new=True),
        version=arguments.repository_version,
        cache_directory=invocation.cache_directory,
    )
    version = repository.config.version
    document = {"repository": store.location, "id": repository.config.id, "version": version}
    return Outcome(
        document,
        summary=[
            f"made repository {repository.config.id[:10]} at {store.location}",
            (
                "Without its password nobody can read it, and nobody can reset it: keep the "
                "password in a second place."
            ),
        ],
    )
