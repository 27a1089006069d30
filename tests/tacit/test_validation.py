"""Errors of a model read from a file: every wrong field, what was received, what was expected."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field

from privacy.order import Strict
from tacit.errors import AgreementError, ConfigError
from tacit.validation import validated


class Inner(Strict):
    size: int


class Outer(Strict):
    name: str
    inner: Inner


def test_a_right_value_becomes_the_model() -> None:
    assert validated(Outer, {"name": "a", "inner": {"size": 1}}, source="x") == Outer(name="a", inner=Inner(size=1))


def test_every_wrong_field_is_named_with_what_was_received() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Outer, {"name": 3, "inner": {"size": "x", "more": 1}}, source="site.toml")
    assert caught.value.message == (
        "site.toml: inner.more is not a field known here; "
        "name: received 3, input should be a valid string; "
        "inner.size: received 'x', input should be a valid integer"
    )
    assert caught.value.hint


def test_a_missing_field_is_named() -> None:
    with pytest.raises(AgreementError, match=r"^x: inner is missing$"):
        validated(Outer, {"name": "a"}, source="x", error=AgreementError)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="x: the whole: received"):
        validated(Outer, value, source="x")


def test_long_values_and_long_lists_of_problems_are_cut() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Outer, {"name": ["y" * 500], **{f"field{i}": 1 for i in range(20)}}, source="x")
    assert len(caught.value.message) < 600
    assert "and 14 more" in caught.value.message


def test_a_pattern_is_told_in_words() -> None:
    class Address(BaseModel):
        at: str = Field(pattern=r"^.+:[0-9]+$")
        code: str = Field(pattern="^x$", default="x")

    with pytest.raises(ConfigError) as caught:
        validated(Address, {"at": "localhost", "code": "y"}, source="x")
    assert caught.value.message == (
        "x: at: received 'localhost', expected host:port; code: received 'y', string should match pattern '^x$'"
    )
