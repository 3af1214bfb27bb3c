"""Text and documents that both databases can keep."""

from __future__ import annotations

import json

import pytest
from control_world import World
from hypothesis import given
from hypothesis import strategies as st

from holdfast.control.storable import storable_document, storable_text
from holdfast.control.tables import Event
from holdfast.errors import UsageError

# Every character, halves of surrogate pairs and NUL among them.
ANY_TEXT = st.text(st.characters(exclude_categories=()))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**63 - 1) | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=10,
)


@given(st.dictionaries(ANY_TEXT, DOCUMENTS))
def test_whatever_comes_can_be_kept(document: dict[str, object]) -> None:
    kept = storable_document(document, limit_bytes=1_000_000)
    assert "\\u0000" not in json.dumps(kept)
    json.dumps(kept, ensure_ascii=False, allow_nan=False).encode()
    assert storable_document(kept, limit_bytes=1_000_000) == kept


@given(ANY_TEXT)
def test_sound_text_stays_as_it_is(text: str) -> None:
    kept = storable_text(text, limit=10_000)
    assert len(kept) == len(text)
    kept.encode()
    if "\0" not in text and not any(0xD800 <= ord(each) <= 0xDFFF for each in text):
        assert kept == text


def test_both_databases_do_keep_it(world: World) -> None:
    infinite = float("inf")
    nasty = "a\0b\ud800c\udfff\U0001f600"
    data = storable_document({nasty: [nasty, {nasty: nasty}, infinite]}, limit_bytes=1000)
    event = world.insert(
        Event(
            account_id=world.account.id,
            at=world.now,
            kind="host.silent",
            subject_kind="host",
            subject_id="x",
            message=storable_text(nasty, limit=100),
            data=data,
        )
    )
    assert world.again(event).data == data


def test_what_is_too_much_is_refused() -> None:
    assert storable_text("abc", limit=2) == "ab"
    with pytest.raises(UsageError):
        storable_document({"a": "x" * 100}, limit_bytes=50)
    with pytest.raises(UsageError):
        storable_document({"a": 2**64}, limit_bytes=50)
    with pytest.raises(UsageError):
        storable_document({"a": object()}, limit_bytes=50)
