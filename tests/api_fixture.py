"""The fixture `api`: the API over each of the databases.

It stands by itself so that tests which do not use it need not load a web framework.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from control_world import World

if TYPE_CHECKING:
    from api_world import Api


@pytest.fixture
def api(world: World) -> Iterator[Api]:
    """The API of a small world; what it logs is in `api.log`."""
    from api_world import Api, caught_log

    made = Api(world)
    with caught_log(made.log):
        try:
            yield made
        finally:
            made.close()
