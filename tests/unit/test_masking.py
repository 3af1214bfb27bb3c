"""Secrets in logs: masked wherever they stand, whoever logs them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from holdfast.serve import logs
from holdfast.serve.masking import MASK, masked, masked_value

SECRET = "hf_" + "Ab3-_" * 8 + "xyz"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged, set up as a server does it; everything is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers, root.level
    stream = io.StringIO()
    logs.set_up(style="json", level="info", stream=stream)
    yield stream
    root.handlers, root.level = before
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "text",
    [
        f"token {SECRET} was refused",
        f'{{"secret":"{SECRET}"}}',
        f"--token={SECRET}",
        f"https://holdfast:{SECRET}@host/restic/",
        f"Authorization: Bearer {SECRET}",
        f"whsec_{SECRET[3:]}",
    ],
)
def test_whatever_looks_like_a_secret_is_masked(text: str) -> None:
    assert SECRET not in masked(text)
    assert SECRET[8:] not in masked(text)
    assert MASK in masked(text)


def test_passwords_of_addresses_and_headers_are_masked() -> None:
    assert masked("postgresql://user:geheim@host/name") == f"postgresql://user:{MASK}@host/name"
    assert "Zm9v" not in masked("authorization: Basic Zm9vOmJhcg==")


def test_other_text_stays() -> None:
    for text in ("half_done", "https://host/path", "a shf_notoken", "user@host", "hf_short"):
        assert masked(text) == text


def test_members_with_a_telling_name_are_masked_at_any_depth() -> None:
    found = masked_value({"a": [{"password": "geheim", "n": 1, "ok": True}], "token": ""})
    assert found == {"a": [{"password": MASK, "n": 1, "ok": True}], "token": ""}


def test_a_line_of_structlog_is_masked(log: io.StringIO) -> None:
    """I3: structured logs with ids and never a secret."""
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        structlog.get_logger("x").info("made", token=SECRET, also={"url": f"http://a:{SECRET}@b"})
    line = json.loads(log.getvalue())
    assert line["request_id"] == "r1"
    assert line["event"] == "made"
    assert SECRET not in log.getvalue()


def test_a_line_of_a_library_and_a_traceback_are_masked(log: io.StringIO) -> None:
    try:
        raise ValueError(f"bad header {SECRET}")
    except ValueError:
        logging.getLogger("some.library").exception("it failed with %s", SECRET)
    line = json.loads(log.getvalue())
    assert line["level"] == "error"
    assert "ValueError" in line["exception"]
    assert SECRET not in log.getvalue()


def test_levels(log: io.StringIO) -> None:
    structlog.get_logger("x").debug("not this")
    logging.getLogger("httpx").info("nor this")
    assert log.getvalue() == ""
