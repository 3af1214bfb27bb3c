"""Results as typed values: a frozen dataclass is filled from a JSON document.

Members that the class does not know are left out, so that a newer server may say more.
Members that the document lacks, or that are null, get the class's default. It never
guesses: a value of the wrong kind is an error that names the member.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from holdfast.errors import ServerUnavailable

T = TypeVar("T")


def from_json(kind: type[T], document: object) -> T:
    """Make a `kind`, a dataclass, out of a JSON object.

    Raises `ServerUnavailable` where the document cannot be one: whoever answered speaks
    another version of this, or is no Holdfast server.
    """
    if not isinstance(document, Mapping):
        raise _not_understood(kind, "it is no JSON object")
    found: dict[str, Any] = {}
    for name, hint, has_default in _members(cast(Any, kind)):
        value = document.get(name)
        if value is None and has_default:
            continue
        try:
            found[name] = _convert(hint, value)
        except (TypeError, ValueError, InvalidOperation) as error:
            raise _not_understood(kind, f"its {name} is {value!r}") from error
    return kind(**found)


def as_document(value: object) -> Any:
    """The JSON of a record: what `from_json` reads."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, (tuple, list)):
        return [as_document(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): as_document(each) for name, each in value.items()}
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value


@cache
def _members(kind: type[Any]) -> tuple[tuple[str, Any, bool], ...]:
    hints = get_type_hints(kind)
    return tuple(
        (
            each.name,
            hints[each.name],
            each.default is not MISSING or each.default_factory is not MISSING,
        )
        for each in fields(kind)
    )


def _convert(hint: Any, value: Any) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(each for each in get_args(hint) if each is not type(None)), value)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(value)
        return tuple(_convert(get_args(hint)[0], each) for each in value)
    if origin is not None and issubclass(origin, Mapping):
        return _checked(dict, value)
    if hint is Any or hint is object:
        return value
    if is_dataclass(hint):
        return from_json(cast(type[Any], hint), value)
    if hint is datetime:
        return _moment(value)
    if hint is Decimal:
        return Decimal(str(value))
    if hint is float:
        return float(value)
    if hint is int and isinstance(value, bool):
        raise TypeError(value)
    return _checked(hint, value)


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(_checked(str, value))
    if moment.tzinfo is None:
        raise ValueError(value)
    return moment


def _checked(kind: type[T], value: Any) -> T:
    if not isinstance(value, kind):
        raise TypeError(value)
    return value


def _not_understood(kind: type[Any], why: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"The server's answer is not the {kind.__name__} that was asked for: {why}. Check the "
        "address, and that server and client are of versions that go together."
    )
