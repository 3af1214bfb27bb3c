"""Key files: the right password opens, a wrong one is told, anything else is `Damaged`."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

import orjson
import pytest
from sample_repository import CHEAP

from holdfast.errors import Damaged, WrongPassword
from holdfast.repo.crypto import MasterKey, Sealer
from holdfast.repo.keyfile import Scrypt, make_key_file, parse_key_file

KEY_ID = "ab" * 32
MASTER = MasterKey.random()


def made(**changes: object) -> bytes:
    document = orjson.loads(make_key_file(MASTER, "secret", CHEAP)) | changes
    return orjson.dumps(document)


@pytest.mark.parametrize(
    "password", ["secret", " leading and trailing ", "pässwörd-日本", "x" * 500]
)
def test_the_password_opens_and_another_does_not(password: str) -> None:
    key = parse_key_file(KEY_ID, make_key_file(MASTER, password, CHEAP))
    assert key.unwrap(password) == MASTER
    for other in (password + " ", password.upper() + "1", ""):
        with pytest.raises(WrongPassword, match="opens no key"):
            key.unwrap(other)


def test_two_key_files_of_one_password_share_nothing_but_the_master_key() -> None:
    one, other = (parse_key_file(KEY_ID, make_key_file(MASTER, "same", CHEAP)) for _ in range(2))
    assert one.salt != other.salt
    assert one.sealed_master != other.sealed_master
    assert one.unwrap("same") == other.unwrap("same") == MASTER


def test_two_keys_open_one_master_each_by_its_own_password() -> None:
    one = parse_key_file(KEY_ID, make_key_file(MASTER, "one", CHEAP))
    two = parse_key_file(KEY_ID, make_key_file(MASTER, "two", Scrypt(n=32, r=4, p=2)))
    assert one.unwrap("one") == two.unwrap("two")
    with pytest.raises(WrongPassword):
        one.unwrap("two")


def test_the_key_file_says_when_and_how_it_was_made() -> None:
    text = make_key_file(MASTER, "secret", Scrypt(n=32, r=4, p=2), datetime(2030, 1, 2, tzinfo=UTC))
    key = parse_key_file(KEY_ID, text)
    assert key.created == "2030-01-02T00:00:00Z"
    assert key.scrypt == Scrypt(n=32, r=4, p=2)
    assert orjson.loads(text)["kdf"] == "scrypt"
    assert len(key.salt) == 64


def test_derivation_is_scrypt_of_rfc_7914() -> None:
    # The second vector of section 12: password, NaCl, N=1024, r=8, p=16, 64 bytes.
    key = Scrypt(n=1024, r=8, p=16).derive(b"password", b"NaCl")
    assert (key.encrypt + key.mac_k + key.mac_r).hex() == (
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )


def test_another_derivation_is_refused_by_name() -> None:
    with pytest.raises(Damaged, match="uses 'argon2'; only scrypt"):
        parse_key_file(KEY_ID, made(kdf="argon2"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x00\xff\xfe",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"kdf":"scrypt"}',
    ],
)
def test_anything_else_is_damage_that_names_the_file(text: bytes) -> None:
    with pytest.raises(Damaged, match="abababab"):
        parse_key_file(KEY_ID, text)


@pytest.mark.parametrize(
    "changes", [{"N": 3}, {"N": 0}, {"N": -4}, {"N": 1 << 40}, {"p": 1 << 40}, {"r": 0}]
)
def test_a_cost_that_cannot_be_is_damage(changes: dict[str, int]) -> None:
    with pytest.raises(Damaged, match="abababab is damaged: its scrypt parameters"):
        parse_key_file(KEY_ID, made(**changes)).unwrap("secret")


@pytest.mark.parametrize(
    "inside", [b"", b"[]", b"{}", b"not json", b'{"mac":{"k":"","r":""},"encrypt":""}']
)
def test_a_file_that_opens_without_a_master_key_is_damage(inside: bytes) -> None:
    salt = bytes(64)
    sealed = Sealer(CHEAP.derive(b"secret", salt)).seal(inside)
    text = made(salt=b64encode(salt).decode(), data=b64encode(sealed).decode())
    with pytest.raises(Damaged, match="opens, but holds no master key"):
        parse_key_file(KEY_ID, text).unwrap("secret")


@pytest.mark.parametrize("changes", [{"N": "many"}, {"r": None}, {"salt": 5}, {"data": "A"}])
def test_a_field_that_cannot_be_is_damage(changes: dict[str, object]) -> None:
    with pytest.raises(Damaged, match="abababab is damaged"):
        parse_key_file(KEY_ID, made(**changes))


def test_a_truncated_file_is_damage() -> None:
    text = made()
    for end in range(len(text)):
        with pytest.raises(Damaged, match="abababab is damaged"):
            parse_key_file(KEY_ID, text[:end])
