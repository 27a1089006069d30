"""Canonical encoding: one byte string for one value, so that hashes and signatures mean something.

RFC 8785 (JSON Canonicalization Scheme) through the ``rfc8785`` package, and SHA-256 digests with a domain
separation label, so that the hash of one kind of object is never the hash of another.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import rfc8785

from tacit.errors import InputError

Json = None | bool | int | float | str | list[Any] | tuple[Any, ...] | dict[str, Any]


def canonical_json(value: Json) -> bytes:
    """Encode ``value`` as RFC 8785 canonical JSON (UTF-8).

    Raises:
        InputError: the value has no canonical form (NaN, infinity, an integer beyond 2^53, a non-string key), or is
            nested too deeply.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"value has no canonical JSON form: {error}") from error


def parse_json(data: bytes | str) -> Any:
    """Parse JSON strictly: duplicate keys, NaN/Infinity and numbers too large for a float are refused.

    Raises:
        InputError: the text is not JSON, or is JSON that two parsers could read differently.
    """

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in pairs:
            if key in result:
                raise InputError(f"duplicate key {key!r} in JSON object")
            result[key] = item
        return result

    def no_constant(name: str) -> Any:
        raise InputError(f"{name} is not a JSON number")

    def finite(text: str) -> float:
        value = float(text)
        if math.isinf(value):  # 1e999 is JSON, and Python would read it as infinity
            raise InputError(f"{text[:40]} is too large for a JSON number")
        return value

    try:
        return json.loads(data, object_pairs_hook=no_duplicates, parse_constant=no_constant, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"not valid JSON: {error}", hint="take the file again from where it was made; it may be cut or edited"
        ) from error


def digest(label: str, value: Json) -> str:
    """Return ``sha256:<hex>`` of ``label || 0x00 || canonical_json(value)``.

    ``label`` separates domains (``"tacit/agreement/v1"``); it must not contain a NUL.
    """
    return digest_bytes(label, canonical_json(value))


def digest_bytes(label: str, data: bytes | memoryview) -> str:
    """Return ``sha256:<hex>`` of ``label || 0x00 || data``."""
    if "\0" in label:
        raise InputError("a digest label must not contain NUL")
    hasher = hashlib.sha256(label.encode() + b"\0")
    hasher.update(data)
    return f"sha256:{hasher.hexdigest()}"
