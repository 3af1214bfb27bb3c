"""The config: it round-trips, its polynomial is irreducible, and other versions are told."""

from __future__ import annotations

import orjson
import pytest

from holdfast.errors import Damaged, NewerVersion
from holdfast.repo.config import RepositoryConfig, is_irreducible, random_irreducible_polynomial


@pytest.mark.parametrize("version", [1, 2])
def test_a_config_round_trips(version: int) -> None:
    config = RepositoryConfig.new(version)
    assert RepositoryConfig.from_json(config.to_json()) == config
    assert len(bytes.fromhex(config.id)) == 32


@pytest.mark.parametrize(
    "polynomial",
    [
        0b10,  # x
        0b11,  # x + 1
        0b111,  # x^2 + x + 1
        0b1011,
        0b1101,
        0b10011,
        0b11111,
        0x11B,  # the field of AES
        0x3DA3358B4DC173,  # the example of restic's design document
    ],
)
def test_irreducible_polynomials_are_known(polynomial: int) -> None:
    assert is_irreducible(polynomial)


@pytest.mark.parametrize(
    "polynomial",
    [
        0b101,  # (x + 1)^2
        0b110,
        0b1001,  # x^3 + 1
        0b10101,  # (x^2 + x + 1)^2
        0x11D ^ 1,  # divisible by x
        0x107,  # CRC-8's has x + 1 as a factor
        0x3DA3358B4DC173 ^ 1,
        (1 << 53) | 1,
    ],
)
def test_reducible_polynomials_are_known(polynomial: int) -> None:
    assert not is_irreducible(polynomial)


def test_the_test_agrees_with_trial_division_up_to_degree_8() -> None:
    def remainder(value: int, divisor: int) -> int:
        while value.bit_length() >= divisor.bit_length():
            value ^= divisor << (value.bit_length() - divisor.bit_length())
        return value

    for polynomial in range(2, 1 << 9):
        degree = polynomial.bit_length() - 1
        factors = range(2, 1 << (degree // 2 + 1))
        prime = all(remainder(polynomial, factor) for factor in factors if factor != polynomial)
        assert is_irreducible(polynomial) is prime, bin(polynomial)


def test_a_random_polynomial_is_irreducible_of_degree_53() -> None:
    drawn = {random_irreducible_polynomial() for _ in range(5)}
    assert len(drawn) == 5
    for polynomial in drawn:
        assert polynomial.bit_length() == 54
        assert is_irreducible(polynomial)


@pytest.mark.parametrize("version", [3, 99, 0, -1])
def test_another_version_says_so(version: int) -> None:
    document = orjson.loads(RepositoryConfig.new().to_json()) | {"version": version}
    with pytest.raises(NewerVersion, match=f"format version {version}"):
        RepositoryConfig.from_json(orjson.dumps(document))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"7",
        b"{}",
        b'{"version":"two","id":"","chunker_polynomial":""}',
        b'{"version":null,"id":"","chunker_polynomial":""}',
        b'{"version":2,"id":"ab"}',
    ],
)
def test_anything_else_is_damage(text: bytes) -> None:
    with pytest.raises(Damaged, match="not a config document"):
        RepositoryConfig.from_json(text)
