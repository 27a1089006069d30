"""Mutations of valid inputs that a coverage-guided fuzzer would try first, as plain data: no state, no randomness."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: What stands between the values of JSON, YAML, TOML, CSV and texts.
_VALUE = re.compile(rb"[^\s,:={}\[\]\"]+")


@dataclass(frozen=True)
class Mutation:
    """One change. ``at`` and ``amount`` are taken modulo whatever there is."""

    kind: str
    at: int
    amount: int


def mutated(data: bytes, mutations: Sequence[Mutation], others: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """Return ``data`` after ``mutations``; ``others`` are inputs to splice in, ``tokens`` pieces to insert."""
    for mutation in mutations:
        at = mutation.at % (len(data) + 1)
        data = _KINDS[mutation.kind](data, at, mutation.amount, others, tokens or _BYTES)
    return data


_Change = Callable[[bytes, int, int, Sequence[bytes], Sequence[bytes]], bytes]
_BYTES = (b"\0", b"\xff", b"\x80" * 4, b"\0" * 33, b"\xff" * 8)
_LENGTHS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _flip(data: bytes, at: int, amount: int, _others: object, _tokens: object) -> bytes:
    return data[:at] + bytes(byte ^ (1 << amount % 8) for byte in data[at : at + 1]) + data[at + 1 :]


def _set(data: bytes, at: int, amount: int, _others: object, _tokens: object) -> bytes:
    return data[:at] + bytes([amount % 256]) + data[at + 1 :]


def _truncate(data: bytes, at: int, _amount: int, _others: object, _tokens: object) -> bytes:
    return data[:at]


def _remove(data: bytes, at: int, amount: int, _others: object, _tokens: object) -> bytes:
    return data[:at] + data[at + 1 + amount % 64 :]


def _duplicate(data: bytes, at: int, amount: int, _others: object, _tokens: object) -> bytes:
    end = at + 1 + amount % 64
    return data[:end] + data[at:]


def _splice(data: bytes, at: int, amount: int, others: Sequence[bytes], _tokens: object) -> bytes:
    other = others[amount % len(others)]
    return data[:at] + other[amount % (len(other) + 1) :]


def _insert(data: bytes, at: int, amount: int, _others: object, tokens: Sequence[bytes]) -> bytes:
    return data[:at] + tokens[amount % len(tokens)] + data[at:]


def _value(data: bytes, at: int, amount: int, _others: object, tokens: Sequence[bytes]) -> bytes:
    """Put a token in the place of the next whole value, so that the syntax around it stays right."""
    found = _VALUE.search(data, at)
    if found is None:
        return data
    return data[: found.start()] + tokens[amount % len(tokens)] + data[found.end() :]


def _length(data: bytes, at: int, amount: int, _others: object, _tokens: object) -> bytes:
    """Change one or four bytes as a length field: by one either way, or to a boundary."""
    size = 4 if amount & 1 else 1
    field = data[at : at + size]
    if len(field) < size:
        return data
    choice = (amount >> 1) % (len(_LENGTHS) + 2)
    value = (int.from_bytes(field, "big") + choice * 2 - 1) if choice < 2 else _LENGTHS[choice - 2]
    return data[:at] + (value % 256**size).to_bytes(size, "big") + data[at + size :]


_KINDS: dict[str, _Change] = {
    "flip": _flip,
    "set": _set,
    "truncate": _truncate,
    "remove": _remove,
    "duplicate": _duplicate,
    "splice": _splice,
    "insert": _insert,
    "value": _value,
    "length": _length,
}
KINDS = tuple(_KINDS)
