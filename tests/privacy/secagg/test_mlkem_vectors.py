"""ML-KEM-768 (FIPS 203) of the library this is built on, against NIST's and Wycheproof's vectors.

The library is trusted with a key agreement, so a build of it that computes something else must not pass. Where the
vectors come from is in ``vectors/README.md``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from privacy.secagg.keys import HybridKey, encapsulate
from tacit.errors import MalformedMessage

SEED_BYTES, KEY_BYTES, CIPHERTEXT_BYTES, SECRET_BYTES = 64, 1184, 1088, 32

VECTORS = Path(__file__).parent / "vectors"
NIST: dict[str, Any] = json.loads((VECTORS / "mlkem768_nist_acvp.json").read_text())
WYCHEPROOF: dict[str, Any] = json.loads((VECTORS / "mlkem768_wycheproof.json").read_text())


def by_number(case: dict[str, Any]) -> str:
    return f"{case['tcId']} {case.get('comment', '')}".strip()


def private(seed: str) -> MLKEM768PrivateKey:
    return MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(seed))


@pytest.mark.parametrize("case", NIST["keygen"], ids=by_number)
def test_a_seed_gives_the_encapsulation_key_of_nist(case: dict[str, Any]) -> None:
    """The seed is ``d || z`` (FIPS 203, section 7.1)."""
    assert private(case["d"] + case["z"]).public_key().public_bytes_raw().hex() == case["ek"]


def test_a_seed_in_the_other_order_gives_another_key() -> None:
    case = NIST["keygen"][0]
    assert private(case["z"] + case["d"]).public_key().public_bytes_raw().hex() != case["ek"]


@pytest.mark.parametrize("case", WYCHEPROOF["decapsulation"], ids=by_number)
def test_decapsulation_gives_the_secret_of_wycheproof(case: dict[str, Any]) -> None:
    assert private(case["seed"]).decapsulate(bytes.fromhex(case["c"])).hex() == case["K"]


@pytest.mark.parametrize("at", [0, 959, 960, 1087])
def test_a_changed_ciphertext_is_rejected_implicitly(at: int) -> None:
    """No error tells the sender: the secret is another one, which only key and ciphertext decide (section 6.3)."""
    case = WYCHEPROOF["decapsulation"][0]
    changed = bytearray.fromhex(case["c"])
    changed[at] ^= 1
    secret = private(case["seed"]).decapsulate(bytes(changed))
    assert len(secret) == SECRET_BYTES
    assert secret.hex() != case["K"]
    assert secret == private(case["seed"]).decapsulate(bytes(changed))
    # z, the second half of the seed, is all that the rejection secret depends on beside the ciphertext.
    other_z = case["seed"][:64] + "00" * 32
    assert private(other_z).decapsulate(bytes.fromhex(case["c"])).hex() == case["K"]
    assert private(other_z).decapsulate(bytes(changed)) != secret


def test_the_vectors_cover_both_outcomes() -> None:
    comments = {case["comment"] for case in WYCHEPROOF["decapsulation"]}
    assert {"Bit flipped ciphertext", "Random ciphertext", "CCTV/strcmp"} <= comments
    assert any(comment.startswith("Test vector based on official") for comment in comments)


@pytest.mark.parametrize("case", NIST["encapsulation_key_check"], ids=by_number)
def test_encapsulation_keys_are_checked_as_nist_says(case: dict[str, Any]) -> None:
    if case["valid"]:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(bytes.fromhex(case["ek"])).encapsulate()
        assert (len(secret), len(ciphertext)) == (SECRET_BYTES, CIPHERTEXT_BYTES)
    else:
        with pytest.raises(ValueError, match="1184 bytes"):
            MLKEM768PublicKey.from_public_bytes(bytes.fromhex(case["ek"]))


@pytest.mark.parametrize("case", WYCHEPROOF["malformed_encapsulation_keys"], ids=by_number)
def test_a_malformed_encapsulation_key_is_refused(case: dict[str, Any]) -> None:
    """Also of the right length, with a coefficient that is not reduced (FIPS 203, section 7.2, modulus check)."""
    with pytest.raises(ValueError, match="1184 bytes"):
        MLKEM768PublicKey.from_public_bytes(bytes.fromhex(case["ek"]))


def test_some_malformed_keys_have_the_right_length() -> None:
    lengths = [len(case["ek"]) // 2 for case in WYCHEPROOF["malformed_encapsulation_keys"]]
    assert lengths.count(KEY_BYTES) >= 5
    assert min(lengths) < KEY_BYTES < max(lengths)


@pytest.mark.parametrize("case", WYCHEPROOF["malformed_ciphertexts"], ids=by_number)
def test_a_ciphertext_of_another_length_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Invalid ML-KEM-768 ciphertext"):
        private(case["seed"]).decapsulate(bytes.fromhex(case["c"]))


@pytest.mark.parametrize("case", WYCHEPROOF["malformed_seeds"], ids=by_number)
def test_a_seed_of_another_length_is_refused(case: dict[str, Any]) -> None:
    assert len(case["seed"]) // 2 != SEED_BYTES
    with pytest.raises(ValueError, match="64 bytes"):
        private(case["seed"])


@pytest.mark.parametrize("size", [0, 1, KEY_BYTES - 1, KEY_BYTES + 1, 800, 1568])
def test_keys_of_the_other_parameter_sets_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="1184 bytes"):
        MLKEM768PublicKey.from_public_bytes(bytes(size))


def test_both_sides_agree_and_every_encapsulation_is_fresh() -> None:
    key = private("0f" * SEED_BYTES)
    public = MLKEM768PublicKey.from_public_bytes(key.public_key().public_bytes_raw())
    (one, first), (two, second) = public.encapsulate(), public.encapsulate()
    assert key.decapsulate(first) == one
    assert key.decapsulate(second) == two
    assert one != two
    assert first != second


# The same through the keys that sites draw.


@pytest.mark.parametrize("case", NIST["keygen"], ids=by_number)
def test_a_sites_hybrid_key_holds_the_key_of_nist(case: dict[str, Any]) -> None:
    key = HybridKey(bytes(32) + bytes.fromhex(case["d"] + case["z"]))
    assert key.kem_public_bytes.hex() == case["ek"]


@pytest.mark.parametrize("case", WYCHEPROOF["decapsulation"], ids=by_number)
def test_a_sites_hybrid_key_decapsulates_as_in_wycheproof(case: dict[str, Any]) -> None:
    key = HybridKey(bytes(32) + bytes.fromhex(case["seed"]))
    assert key.decapsulate(bytes.fromhex(case["c"])).hex() == case["K"]


@pytest.mark.parametrize("case", WYCHEPROOF["malformed_encapsulation_keys"], ids=by_number)
def test_a_site_refuses_a_malformed_encapsulation_key(case: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage, match="not usable"):
        encapsulate(bytes.fromhex(case["ek"]))
