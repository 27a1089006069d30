"""The exception tree in the module's docstring is the tree of classes."""

from __future__ import annotations

import inspect
import re

import pytest

from tacit import errors
from tacit.errors import ProtocolViolation, Refusal, RefusalReason, TacitError

BRANCH = re.compile(r"^ {4}(?P<indent>(?:│   |    )*)(?:├── |└── )?(?P<name>[A-Z]\w+)(?P<rest>.*)$")


def documented() -> dict[str, tuple[str | None, int | None]]:
    """Name -> (parent's name, exit code if stated), as drawn in the docstring."""
    drawing = (errors.__doc__ or "").split("::\n", 1)[1]
    result: dict[str, tuple[str | None, int | None]] = {}
    line_of_parents: list[str] = []
    for line in filter(str.strip, drawing.splitlines()):
        match = BRANCH.match(line)
        assert match, f"not a branch of the tree: {line!r}"
        depth = len(match["indent"]) // 4 + ("── " in line)
        line_of_parents[depth:] = [match["name"]]
        code = re.search(r"exit (\d+)$", match["rest"])
        result[match["name"]] = (
            line_of_parents[depth - 1] if depth else None,
            int(code[1]) if code else None,
        )
    return result


def defined() -> dict[str, type[TacitError]]:
    return {name: item for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, TacitError)}


def test_the_drawn_tree_is_the_tree_of_classes() -> None:
    drawn = {name: parent for name, (parent, _) in documented().items()}
    real = {name: None if item is TacitError else item.__mro__[1].__name__ for name, item in defined().items()}
    assert drawn == real


def test_the_drawn_exit_codes_are_the_real_ones() -> None:
    for name, (parent, code) in documented().items():
        item = defined()[name]
        expected = code if code is not None else defined()[parent].exit_code if parent else 1
        assert item.exit_code == expected, name


def test_exit_codes_tell_the_main_branches_apart() -> None:
    codes = [item.exit_code for item in defined().values() if item.__mro__[1] is TacitError]
    assert len(codes) == len(set(codes))
    assert all(1 < code < 64 for code in codes)


@pytest.mark.parametrize("name", sorted(defined()))
def test_every_error_carries_message_and_hint_and_a_docstring(name: str) -> None:
    kind = defined()[name]
    error = kind(RefusalReason.BUDGET, "m", hint="h") if kind is Refusal else kind("m", hint="h")
    assert (str(error), error.message, error.hint) == ("m", "m", "h")
    assert inspect.getdoc(kind)


def test_a_refusal_has_a_typed_reason() -> None:
    error = Refusal(RefusalReason.PRIVACY_PARAMETERS, "noise 0.5, expected at least 0.8")
    assert error.reason == "privacy-parameters"
    assert error.hint is None


def test_refusal_reasons_travel_as_lower_case_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", reason.value) for reason in RefusalReason)


def test_a_protocol_violation_may_name_the_peer() -> None:
    assert ProtocolViolation("m", peer="alpha").peer == "alpha"
    assert ProtocolViolation("m").peer is None
