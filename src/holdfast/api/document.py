"""What requests and answers are made of.

A request that has a member which nobody knows is refused: it is a mistake that would
otherwise be found out much later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_Item = TypeVar("_Item")


class Document(BaseModel):
    """What is answered; made from a row by `model_validate`."""

    model_config = ConfigDict(from_attributes=True)


class Body(BaseModel):
    """What is sent."""

    model_config = ConfigDict(extra="forbid")


class Changes(Body):
    """What is sent to change something: members that are left out stay as they are.

    Defaults here are never used, and not part of the schema.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for member in schema.get("properties", {}).values():
            member.pop("default", None)
        return schema

    def given(self) -> Mapping[str, Any]:
        """The members that were sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Listing(Document, Generic[_Item]):
    """One page of a list."""

    items: list[_Item]
    next_cursor: str | None
