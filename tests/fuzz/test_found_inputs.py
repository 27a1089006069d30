"""Inputs that once broke a promise, in their shortest form, and that a fuzzer finds only by luck."""

from __future__ import annotations

import base64
import io
import zipfile

import pytest
import valid_inputs as valid
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from decoders import DECODERS, check

from tacit.canonical import canonical_json, parse_json
from tacit.errors import InputError

_AGREEMENT = valid.agreements()[0]
_ENTRY = valid.ledger_entries()[0]
_HEAD = valid.checkpoint_files()[0].partition(b"\n")[0]
_VECTOR = valid.checkpoint_files()[0].partition(b"\n")[2]


def _with_another_curve() -> bytes:
    """The CA's certificate with a curve nobody knows: one bit of the object identifier."""
    der = x509.load_pem_x509_certificate(valid.authority().certificate_pem).public_bytes(Encoding.DER)
    known = bytes.fromhex("06082a8648ce3d030107")
    assert der.count(known) == 1
    body = base64.encodebytes(der.replace(known, bytes.fromhex("06082a8648ce3d030207"))).decode()
    return f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n".encode()


def _with_damaged_deflate() -> bytes:
    """A bundle of the right names whose compressed bytes do not inflate."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("pyproject.toml", ".info/CONTENT"):
            archive.writestr(name, b"tacit " * 50)
    bundle = bytearray(buffer.getvalue())
    bundle[bundle.index(b"pyproject.toml") + len(b"pyproject.toml")] = 0xFF  # a block type that deflate does not have
    return bytes(bundle)


REFUSED: dict[str, tuple[str, bytes]] = {
    "a tag that reads 010 as eight": ("yaml", b"a: !!int 010\n"),
    "a tag on an empty scalar": ("yaml", b'a: !!int ""\n'),
    "a tag on a word that is no truth value": ("yaml", b"a: !!bool x\n"),
    "the tag of no tag": ("yaml", b"a: ! 1\n"),
    "a number YAML reads as infinity": ("yaml", b"a: 1e999\n"),
    "a character beyond Unicode": ("yaml", b'a: "\\UFFFFFFFF"\n'),
    "the same in an agreement": ("agreement", b'"\\UFFFFFFFF": 1\n' + _AGREEMENT),
    "a number Python reads as infinity": ("json", b"[1e999]"),
    "a deep order": ("order-deadline", b"[" * 100_000),
    "a deadline of 400 digits": ("order-deadline", b'{"deadline_s": ' + b"9" * 400 + b"}"),
    "an integer of 5000 digits in TOML": ("run-spec", valid.RUN_TOML.replace(b" = 3", b" = " + b"9" * 5000)),
    "deep TOML": ("run-spec", b"a = " + b"[" * 5000),
    "the home of somebody unknown": ("run-spec", valid.RUN_TOML.replace(b"models/mine", b"~nobody-at-all/x")),
    "deflated bytes that do not inflate": ("flower-bundle", _with_damaged_deflate()),
    "an unknown curve": ("authority", _with_another_curve()),
    "an unknown curve in a peer's certificate": ("certificate", _with_another_curve()),
    "a register whose entries are a number": ("issued-register", b'{"tacit_issued": 1, "entries": 5}'),
    "a checkpoint that is no object": ("checkpoint", b"0\n"),
    "a checkpoint without a vector": ("checkpoint", b"{}\n"),
    "a vector outside the folder": ("checkpoint", _HEAD.replace(b"round-00004", b"../round-4") + b"\n" + _VECTOR),
    "a checkpoint after no whole round": ("checkpoint", _HEAD.replace(b'"round":4', b'"round":"x"') + b"\n" + _VECTOR),
    "a zip of arrays": ("checkpoint", valid.checkpoint_files()[1]),
    "a vector of 10^18 numbers": ("checkpoint", _HEAD + b"\n" + _VECTOR.replace(b"(6,), }", b"(10**18,), }")),
    "a header that is no literal": ("checkpoint", _HEAD + b"\n" + _VECTOR.replace(b"(6,), }", b"(((((( ")),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_once_broke_a_promise_is_refused_in_the_decoders_own_words(what: str) -> None:
    name, data = REFUSED[what]
    assert data not in DECODERS[name].seeds or what == "a zip of arrays", "nothing was changed"
    assert not check(DECODERS[name], data)


@pytest.mark.parametrize("depth", [100, 200, 300, 400, 500, 600, 700, 800, 850, 900, 950, 1000])
def test_no_depth_lies_between_what_is_read_and_what_can_be_written(depth: int) -> None:
    """A reader in C, a validator in Rust and a writer in Python give up at different depths."""
    deep = b"[" * depth + b"]" * depth
    check(DECODERS["json"], deep)
    check(DECODERS["ledger-entry"], _ENTRY.replace(b"[1,2.5]", deep))
    check(DECODERS["order"], b'{"labels": ' + deep + b"}")
    check(DECODERS["secagg-descriptor"], b'{"cohort": ' + deep + b', "round": ' + deep + b"}")
    check(DECODERS["jsonl"], b'{"text": "a", "label": "lost", "note": ' + deep + b"}\n")
    check(DECODERS["yaml"], deep)


def test_a_value_too_deep_to_write_is_refused() -> None:
    value: list[object] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(InputError, match="canonical"):
        canonical_json(value)


@pytest.mark.parametrize("number", ["1e999", "-1e309", "1" + "0" * 309 + ".0"])
def test_json_never_becomes_infinite(number: str) -> None:
    with pytest.raises(InputError, match="too large"):
        parse_json(f'{{"x": {number}}}')


@pytest.mark.parametrize("number", ["1e308", "-1.5e-300", "1e-999", "0.1", "-0.0"])
def test_large_and_small_numbers_are_still_json(number: str) -> None:
    assert parse_json(number) == float(number)
