"""YAML that reads one way only: what other readers disagree on is text or refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tacit.errors import AgreementError, ConfigError
from tacit.strict_yaml import MAX_SIZE_BYTES, dump_yaml, parse_yaml, read_yaml


def parse(text: str | bytes) -> Any:
    return parse_yaml(text.encode() if isinstance(text, str) else text, source="the file")


# YAML 1.2.2 section 10.2.2, and words that YAML 1.1 (https://yaml.org/type/) reads as something else
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0", 0),
        ("1.5", 1.5),
        ("1e-5", 1e-5),
        ("1.0e+3", 1000.0),
        ("-2E2", -200.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("'1'", "1"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("TRUE", "TRUE"),
        ("y", "y"),
        ("010", "010"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        (".5", ".5"),
        ("5.", "5."),
        ("+1", "+1"),
        ("=", "="),
    ],
)
def test_scalars_follow_the_json_schema(text: str, value: Any) -> None:
    read = parse(f"key: {text}\n")["key"]
    assert read == value
    assert type(read) is type(value)


def test_a_merge_key_is_only_a_word() -> None:
    assert parse("<<: 1\n") == {"<<": 1}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: 1\na: 2\n", "line 2, column 1: the key 'a' a second time"),
        ("x: {a: 1, b: {c: 1, c: 2}}\n", "the key 'c' a second time"),
        ("a: &x [1]\nb: *x\n", r"line 2, column 4: an alias"),
        ("a: !!python/object/apply:os.system [ls]\n", "the tag"),
        ("a: !!set {b, c}\n", "the tag"),
        ("a: !!binary AAAA\n", "the tag"),
        ("a: !!timestamp 2026-01-01\n", "the tag"),
        ("a: !!omap [b: 1]\n", "the tag"),
        ("a: !local 1\n", "the tag"),
        ("a: !!int x\n", "cannot be read"),
        ("1: a\n", "a key that is not a plain word"),
        ("true: a\n", "a key that is not a plain word"),
        ("? [a]\n: b\n", "a key that is not a plain word"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a: [1\n", "cannot be read"),
        ("a: \x00\n", "cannot be read"),
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "x" * MAX_SIZE_BYTES, "expected at most"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        parse(text)
    assert caught.value.message.startswith("the file ")


def test_only_utf_8_is_read() -> None:
    assert parse(b"\xef\xbb\xbfa: 1\n") == {"a": 1}
    with pytest.raises(ConfigError, match="not UTF-8"):
        parse("a: é\n".encode("latin-1"))


def test_each_trust_edge_has_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(AgreementError, match="cannot read"):
        read_yaml(tmp_path / "absent.yaml", error=AgreementError)
    (tmp_path / "long.yaml").write_bytes(b"x" * (MAX_SIZE_BYTES + 10))
    with pytest.raises(AgreementError, match="expected at most"):
        read_yaml(tmp_path / "long.yaml", error=AgreementError)
    with pytest.raises(ConfigError, match="Is a directory"):
        read_yaml(tmp_path)


_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
_WORDS = st.sampled_from(["no", "1e-5", "010", "2026-01-01", "null", "~", "", "true", "1", "-", "a: b", "# c", "x\n"])
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXTS
    | _WORDS
    | st.text("ab \n-\t:#", max_size=20),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(_TEXTS | _WORDS, values, max_size=4),
    max_leaves=12,
)


@given(_VALUES.filter(lambda value: value is not None))
def test_what_is_written_is_read_back(value: Any) -> None:
    written = dump_yaml({"value": value})
    assert parse(written) == {"value": value}
    assert dump_yaml(parse(written)) == written


@given(_VALUES)
def test_other_readers_see_the_same(value: Any) -> None:
    """A YAML 1.1 reader agrees on everything this writes: what a signer sees elsewhere is what is signed."""
    assert yaml.safe_load(dump_yaml({"value": value})) == {"value": value}


@pytest.mark.parametrize("value", [{"\x85": None}, "a\x85b", {"a\u2028b": 1}, "\u2029", "a\u2028\nb\n"])
def test_unicode_line_breaks_survive_every_reader(value: Any) -> None:
    written = dump_yaml({"value": value})
    assert yaml.safe_load(written) == {"value": value}
    assert parse_yaml(written, source="test") == {"value": value}


def test_a_repeated_object_is_written_out_twice() -> None:
    shared = ["a"]
    assert parse(dump_yaml({"x": shared, "y": shared})) == {"x": ["a"], "y": ["a"]}


def test_texts_of_several_lines_stay_readable() -> None:
    assert dump_yaml({"pem": "-----BEGIN\nabc\n"}) == b"pem: |\n  -----BEGIN\n  abc\n"


def test_infinity_has_no_place() -> None:
    assert parse(dump_yaml({"x": math.inf})) == {"x": ".inf"}  # text, so a model that wants a number refuses it
