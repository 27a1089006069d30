"""Every place where bytes from a file or the wire become values, and what each promises about any bytes at all.

The promise: a value, or one of the decoder's own error types; never another exception, never a hang. Formats that are
canonical also promise that what was read writes back to the same bytes; their functions here assert it.
"""

from __future__ import annotations

import base64
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import valid_inputs as valid
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from certs.anchor import TrustAnchor
from certs.identity import PeerIdentity
from certs.pemfiles import parse_certificate, read_ecdsa_key, read_ed25519_key
from certs.register import IssuedRegister
from client.app import _deadline_s as order_deadline_s
from client.data import distinct_labels, load_records
from client.fab import check_fab
from client.fleet_api import FLEET_CALLS, parse_call, speaker_of
from privacy.agreement import dump_bundle, load_bundle, verify
from privacy.deidentify import profile_named
from privacy.ledger import export, read_proof, verify_export
from privacy.ledger.entries import decode_entry
from privacy.ledger.verification import stored_head
from privacy.order import Order, Receipt
from privacy.policy import load_policy
from privacy.secagg.descriptor import descriptor_for
from privacy.secagg.messages import decode
from server.checkpoint import latest_checkpoint
from server.run_spec import RunSpec, load_run_spec
from server.witnesses import SiteWitnesses
from tacit.canonical import canonical_json, parse_json
from tacit.errors import (
    AgreementError,
    CertificateError,
    ConfigError,
    DataError,
    DescriptorMismatch,
    InputError,
    LedgerCorrupt,
    MalformedMessage,
    Refusal,
    SecAggError,
)
from tacit.strict_yaml import dump_yaml, parse_yaml


@dataclass(frozen=True)
class Decoder:
    """One decoder: ``decode`` on any bytes gives a value or raises one of ``errors``."""

    name: str
    decode: Callable[[bytes], object]
    #: valid inputs, from which mutations start
    seeds: tuple[bytes, ...]
    errors: tuple[type[Exception], ...]
    #: pieces of syntax that mutations insert
    tokens: tuple[bytes, ...] = ()


class TooSlow(BaseException):
    """An input that takes longer than :data:`CPU_LIMIT_S`. No ``except Exception`` on the way may swallow it."""


#: Of processor time, so that a busy machine does not matter. Inputs have a few kilobytes.
CPU_LIMIT_S = 2.0


def check(decoder: Decoder, data: bytes) -> bool:
    """Hold ``decoder`` to its promise for ``data``; return whether it gave a value.

    Raises:
        TooSlow: it hangs, or nearly.
        Exception: any but the decoder's own: the promise is broken.
    """
    with _processor_time(CPU_LIMIT_S):
        try:
            decoder.decode(data)
        except decoder.errors:
            return False
    return True


@contextmanager
def _processor_time(limit_s: float) -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow(f"more than {limit_s} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


_FOLDER = tempfile.TemporaryDirectory(prefix="tacit-fuzz-")


def _file(name: str, data: bytes) -> Path:
    path = Path(_FOLDER.name) / name
    path.write_bytes(data)
    path.chmod(0o600)  # keys that others can read are refused unread
    return path


def _message(data: bytes) -> None:
    assert decode(data).encode() == data, "not canonical"


def _descriptor(data: bytes) -> None:
    own = valid.step_harness().describe(4)
    own.check_announced(data)
    assert data == own.encode(), "another announcement was accepted"


def _json(data: bytes) -> None:
    value = parse_json(data)
    canonical = canonical_json(value)
    assert canonical_json(parse_json(canonical)) == canonical, "not canonical"


def _order(data: bytes) -> None:
    order = Order.model_validate_json(data)
    again = Order.model_validate_json(canonical_json(order.model_dump(mode="json")))
    assert again.digest() == order.digest(), "an order changed on its way"
    descriptor_for(order, 1).ctx()


def _receipt(data: bytes) -> None:
    receipt = Receipt.model_validate_json(data)
    assert Receipt.model_validate_json(receipt.model_dump_json()) == receipt


def _agreement(data: bytes) -> None:
    bundle = load_bundle(_file("agreement.yaml", data))
    assert load_bundle(_file("again.yaml", dump_bundle(bundle))) == bundle, "an agreement changed on its way"
    verify(bundle, valid.authority(), now=valid.NOW)


def _policy(data: bytes) -> None:
    policy = load_policy(_file("policy.yaml", data))
    again = load_policy(_file("again.yaml", dump_yaml(policy.model_dump(mode="json"))))
    assert again == policy, "a policy changed on its way"


def _yaml(data: bytes) -> None:
    value = parse_yaml(data, source="the file")
    written = dump_yaml(value)
    assert dump_yaml(parse_yaml(written, source="the file")) == written, "YAML changed on its way"


def _entry(data: bytes) -> None:
    assert decode_entry(data, 0).encode() == data, "not canonical"


class _HeadOnly:
    """A ledger store of which only the row of the head is read."""

    name = "the ledger"

    def __init__(self, row: tuple[object, ...]) -> None:
        self._row = row

    def head_row(self) -> tuple[object, ...]:
        return self._row


def _tree_head(data: bytes) -> None:
    row = parse_json(data)
    columns = [*row, None, None, None, None][:4] if isinstance(row, list) else [row] * 4
    head = stored_head(_HeadOnly(tuple(columns)))  # type: ignore[arg-type]
    head.verify(valid.identity("alpha").public)
    assert [head.size, head.root, head.timestamp, head.signature] == columns


def _ledger_proof(data: bytes) -> None:
    proof = read_proof(data)
    assert read_proof(proof.encode()) == proof, "a proof changed on its way"
    proof.verify(valid.identity("alpha").public)
    assert proof.tree_head == valid.ledger().tree_head()


def _ledger_export(data: bytes) -> None:
    verify_export(data, valid.identity("alpha").public)
    assert data == export(valid.ledger()), "another log under the same head"


def _witnessed_heads(data: bytes) -> None:
    SiteWitnesses(_file("witnessed-heads.json", data), {}).seen()


def _fleet_call(data: bytes) -> None:
    path = list(FLEET_CALLS)[data[0] % len(FLEET_CALLS)] if data else next(iter(FLEET_CALLS))
    speaker_of(parse_call(path, data[1:]))


def _table(suffix: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        path = _file(f"records{suffix}", data)
        distinct_labels(path, "label")
        loaded = load_records(path, "text", "label", ("lost", "transfer"), profile="standard-v1")
        assert len(loaded.texts) == len(loaded.labels) > 0

    return read


def _keyed_table(suffix: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        path = _file(f"keyed{suffix}", data)
        loaded = load_records(path, "text", "label", ("lost", "transfer"), profile="standard-v1", key_column="who")
        assert loaded.owners is not None
        assert loaded.owners[0] == 0
        assert len(loaded.owners) == len(loaded.texts)

    return read


def _deidentify(data: bytes) -> None:
    profile = profile_named("standard-v1")
    result = profile.apply(data.decode("utf-8", "replace"))
    assert not profile.apply(result.text).counts, "an identifier was left"


def _certificate(data: bytes) -> None:
    parse_certificate(data, "the certificate")
    PeerIdentity.from_certificate(data, valid.authority(), at=valid.NOW)


def _certificate_der(data: bytes) -> None:
    """Mutations of the structure itself, which base64 would hide."""
    body = base64.encodebytes(data).decode()
    _certificate(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n".encode())


def _private_key(data: bytes) -> None:
    path = _file("some.key", data)
    try:
        read_ed25519_key(path)
    except CertificateError:
        read_ecdsa_key(path)


def _run_spec(data: bytes) -> None:
    spec = load_run_spec(_file("run.toml", data))
    assert RunSpec.model_validate(spec.model_dump(mode="json")) == spec, "a run changed on its way"


def _checkpoint(data: bytes) -> None:
    head, _, vector = data.partition(b"\n")
    _file("round-00004.json", head)
    _file("round-00004.npy", vector)
    found = latest_checkpoint(Path(_FOLDER.name))
    assert found is not None
    assert found.vector.ndim == 1


def _register(data: bytes) -> None:
    IssuedRegister(_file("issued.json", data)).entries()


_JSON_TOKENS = (
    b"null", b"true", b"1e999", b"-0", b"1.5", b"[]", b"{}", b'""', b'"\\ud800"', b"NaN",
    b"[" * 60, b"]" * 60, b"9" * 400,
)  # fmt: skip
_YAML_TOKENS = (
    b"!!int ", b"!!float ", b"!!bool ", b"!!null ", b"!!str ", b"!!map ", b"!!seq ", b"! ", b"&a ", b"*a", b"<<: ",
    b'"\\UFFFFFFFF"', b'"\\ud800"', b"1e999", b"0x1F", b"010", b"? ", b"---\n", b"%YAML 1.1\n", b"{a: b}", b"[" * 60,
    b"\xe2\x80\xa8", b"9" * 400,
)  # fmt: skip
_TOML_TOKENS = (
    b"[", b"[[", b"=", b'"""', b"'''", b"inf", b"nan", b"1979-05-27T07:32:00Z", b"0xff", b"{a=1}", b"[" * 60,
    b'"~nobody/x"', b"\\UFFFFFFFF", b"9" * 5000,
)  # fmt: skip
_TEXT_TOKENS = (
    b"@", b".", b"-", b" ", b"+44", b"(0)", b"4111111111111111", b"127.0.0.1", b"::1", b"\xef\xbc\x91", b"\xd9\xa1",
    b"\xe2\x80\x93",
)  # fmt: skip


def _decoders() -> Iterator[Decoder]:
    yield Decoder("secagg-message", _message, valid.protocol_frames(), (MalformedMessage,))
    yield Decoder(
        "secagg-descriptor",
        _descriptor,
        (valid.step_harness().describe(4).encode(),),
        (DescriptorMismatch,),
        _JSON_TOKENS,
    )
    yield Decoder("json", _json, valid.JSON, (InputError,), _JSON_TOKENS)
    # pydantic's own error is what the gate and the strategy turn into a refusal or an absent site.
    yield Decoder("order", _order, valid.orders(), (ValidationError, InputError, SecAggError), _JSON_TOKENS)
    yield Decoder("order-deadline", order_deadline_s, valid.orders(), (InputError,), _JSON_TOKENS)
    yield Decoder("receipt", _receipt, valid.receipts(), (ValidationError,), _JSON_TOKENS)
    yield Decoder("agreement", _agreement, valid.agreements(), (AgreementError,), _YAML_TOKENS)
    yield Decoder("policy", _policy, valid.policies(), (ConfigError,), _YAML_TOKENS)
    yield Decoder("yaml", _yaml, valid.YAML, (ConfigError,), _YAML_TOKENS)
    yield Decoder("ledger-entry", _entry, valid.ledger_entries(), (LedgerCorrupt,), _JSON_TOKENS)
    head = canonical_json([valid.tree_head()[name] for name in ("size", "root", "timestamp", "signature")])
    yield Decoder("tree-head", _tree_head, (head,), (InputError, LedgerCorrupt), _JSON_TOKENS)
    yield Decoder("ledger-proof", _ledger_proof, valid.ledger_proofs(), (InputError, LedgerCorrupt), _JSON_TOKENS)
    yield Decoder("ledger-export", _ledger_export, (export(valid.ledger()),), (LedgerCorrupt,), _JSON_TOKENS)
    yield Decoder("witnessed-heads", _witnessed_heads, valid.witnessed_heads(), (ConfigError,), _JSON_TOKENS)
    yield Decoder("fleet-call", _fleet_call, valid.fleet_calls(), (MalformedMessage,))
    yield Decoder("flower-bundle", check_fab, valid.bundles(), (Refusal,))
    yield Decoder("csv", _table(".csv"), valid.CSV, (DataError,), (b'"', b",", b"\r", b"\x00", *_TEXT_TOKENS))
    yield Decoder("jsonl", _table(".jsonl"), valid.JSONL, (DataError,), _JSON_TOKENS)
    yield Decoder("keyed-csv", _keyed_table(".csv"), valid.KEYED_CSV, (DataError,), (b'"', b",", b"\r", *_TEXT_TOKENS))
    yield Decoder("keyed-jsonl", _keyed_table(".jsonl"), valid.KEYED_JSONL, (DataError,), _JSON_TOKENS)
    yield Decoder("deidentify", _deidentify, valid.TEXTS, (), _TEXT_TOKENS)
    identity_pem = valid.identity("alpha").certificate_pem
    authority_pem = valid.authority().certificate_pem
    yield Decoder("certificate", _certificate, (identity_pem, authority_pem), (CertificateError,))
    ders = tuple(
        x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER) for pem in (identity_pem, authority_pem)
    )
    yield Decoder("certificate-der", _certificate_der, ders, (CertificateError,))
    yield Decoder("authority", TrustAnchor.from_pem, (authority_pem,), (CertificateError,))
    yield Decoder("private-key", _private_key, valid.private_keys(), (CertificateError,))
    yield Decoder("issued-register", _register, valid.register(), (CertificateError,), _JSON_TOKENS)
    yield Decoder("run-spec", _run_spec, (valid.RUN_TOML,), (ConfigError,), _TOML_TOKENS)
    yield Decoder("checkpoint", _checkpoint, valid.checkpoint_files(), (ConfigError, InputError), _JSON_TOKENS)


DECODERS: dict[str, Decoder] = {decoder.name: decoder for decoder in _decoders()}
