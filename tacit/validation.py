"""From parsed data to a model, with an error a person can act on: field by field, received and expected."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tacit.errors import ConfigError, TacitError

Model = TypeVar("Model", bound=BaseModel)

_SHOWN_PROBLEMS = 8
_SHOWN_CHARACTERS = 60
#: what a pattern means, for people; others are shown as they are
_PATTERNS = {r"^.+:[0-9]+$": "expected host:port"}


def validated(model: type[Model], value: Any, *, source: str, error: type[TacitError] = ConfigError) -> Model:
    """Validate ``value`` as ``model``.

    Args:
        source: what the data is, for messages: usually a path.
        error: the exception raised, so that each trust edge speaks its own.

    Raises:
        error: naming each field that is wrong, what was received and what was expected.
    """
    try:
        return model.model_validate(value)
    except ValidationError as failure:
        # Unknown fields first: a misspelt name is the usual reason why another field is missing.
        found = sorted(failure.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        problems = [_describe(problem) for problem in found]
        more = len(problems) - _SHOWN_PROBLEMS
        listed = "; ".join(problems[:_SHOWN_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise error(f"{source}: {listed}", hint="correct the fields named above") from failure


def _describe(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"]) or "the whole"
    match problem["type"]:
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden":
            return f"{field} is not a field known here"
        case _:
            received = repr(problem["input"])
            if len(received) > _SHOWN_CHARACTERS:
                received = received[:_SHOWN_CHARACTERS] + "..."
            told = (
                _PATTERNS.get(problem.get("ctx", {}).get("pattern")) or problem["msg"][:1].lower() + problem["msg"][1:]
            )
            return f"{field}: received {received}, {told}"
