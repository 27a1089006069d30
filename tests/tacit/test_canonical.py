"""Canonical JSON and digests: the vectors of RFC 8785, and what has no canonical form."""

from __future__ import annotations

import hashlib
import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tacit.canonical import canonical_json, digest, digest_bytes, parse_json
from tacit.errors import InputError

# RFC 8785, section 3.2.2: the input, and section 3.2.4: the canonical result in UTF-8 bytes.
RFC8785_INPUT = r"""
{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}
"""
RFC8785_OUTPUT = bytes.fromhex(
    "7b 22 6c 69 74 65 72 61 6c 73 22 3a 5b 6e 75 6c 6c 2c 74 72"
    "75 65 2c 66 61 6c 73 65 5d 2c 22 6e 75 6d 62 65 72 73 22 3a"
    "5b 33 33 33 33 33 33 33 33 33 2e 33 33 33 33 33 33 33 2c 31"
    "65 2b 33 30 2c 34 2e 35 2c 30 2e 30 30 32 2c 31 65 2d 32 37"
    "5d 2c 22 73 74 72 69 6e 67 22 3a 22 e2 82 ac 24 5c 75 30 30"
    "30 66 5c 6e 41 27 42 5c 22 5c 5c 5c 5c 5c 22 2f 22 7d"
)

# RFC 8785, section 3.2.3: property names and the order they come out in (by UTF-16 code units).
RFC8785_SORTING_INPUT = r"""
{
  "\u20ac": "Euro Sign",
  "\r": "Carriage Return",
  "\ufb33": "Hebrew Letter Dalet With Dagesh",
  "1": "One",
  "\ud83d\ude00": "Emoji: Grinning Face",
  "\u0080": "Control",
  "\u00f6": "Latin Small Letter O With Diaeresis"
}
"""
RFC8785_SORTED_VALUES = [
    "Carriage Return",
    "One",
    "Control",
    "Latin Small Letter O With Diaeresis",
    "Euro Sign",
    "Emoji: Grinning Face",
    "Hebrew Letter Dalet With Dagesh",
]

# RFC 8785, appendix B: IEEE 754 doubles and their JSON form. Infinity and NaN have none.
RFC8785_NUMBERS = {
    "0000000000000000": "0",
    "8000000000000000": "0",
    "0000000000000001": "5e-324",
    "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308",
    "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992",
    "c340000000000000": "-9007199254740992",
    "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22",
    "44b52d02c7e14af6": "1e+23",
    "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000",
    "444b1ae4d6e2ef4f": "999999999999999900000",
    "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
    "3eb0c6f7a0b5ed8d": "0.000001",
    "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325",
    "41b3de4355555555": "333333333.3333333",
    "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343",
    "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}


def test_the_example_of_rfc_8785() -> None:
    assert canonical_json(parse_json(RFC8785_INPUT)) == RFC8785_OUTPUT


def test_property_names_sort_by_utf_16_code_units() -> None:
    result = canonical_json(parse_json(RFC8785_SORTING_INPUT))
    assert list(json.loads(result).values()) == RFC8785_SORTED_VALUES


@pytest.mark.parametrize(("bits", "text"), RFC8785_NUMBERS.items())
def test_numbers_of_rfc_8785(bits: str, text: str) -> None:
    (number,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json(number) == text.encode()


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 2**53, -(2**53), {1: "a"}, {None: 1}, object(), {"a": {1, 2}}, "\ud800"],
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="no canonical JSON form"):
        canonical_json(value)  # type: ignore[arg-type]


def reads_back(number: float) -> bool:
    """Whole floats from 2^53 on are written as integers that no longer have a canonical form when read."""
    return abs(number) < 2**53 or not number.is_integer()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False).filter(reads_back)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(json_values)
def test_reading_back_gives_the_same_value_and_the_same_bytes(value: object) -> None:
    encoded = canonical_json(value)  # type: ignore[arg-type]
    assert parse_json(encoded) == value
    assert canonical_json(parse_json(encoded)) == encoded


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 9), min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, int]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert canonical_json(backwards) == canonical_json(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 1}', "duplicate key 'a'"),
        ('[{"b": {"a": 1, "\\u0061": 2}}]', "duplicate key 'a'"),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ("", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ("[1] [2]", "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
    ],
)
def test_json_that_could_be_read_two_ways_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_json(text)


def test_json_deeper_than_the_stack_is_refused() -> None:
    with pytest.raises(InputError, match="not valid JSON"):
        parse_json("[" * 100_000)


def test_a_digest_is_the_hash_of_label_and_canonical_form() -> None:
    expected = hashlib.sha256(b'tacit/test/v1\x00{"a":1,"b":[true]}').hexdigest()
    assert digest("tacit/test/v1", {"b": [True], "a": 1}) == f"sha256:{expected}"
    assert digest_bytes("tacit/test/v1", memoryview(b'{"a":1,"b":[true]}')) == f"sha256:{expected}"


def test_labels_separate() -> None:
    assert digest("tacit/a/v1", {}) != digest("tacit/b/v1", {})


def test_a_label_holds_no_nul() -> None:
    """With one, ("a", b"\\0b") and ("a\\0", b"b") would have one digest."""
    with pytest.raises(InputError, match="NUL"):
        digest_bytes("a\0", b"b")
