"""Published known answers for key agreement, derivation and sharing that the other tests do not have yet.

Where the files come from is in ``vectors/README.md``. The mask stream's vectors (SP 800-38A F.5.5, GCM test case 14)
are in ``test_keystream.py``; here is what they do not say, that the stream is GCM's from its first block on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.secagg.keys import KEM_SEED_BYTES, HybridKey, hkdf_expand, hkdf_extract
from privacy.secagg.keystream import keystream
from privacy.secagg.shamir import PRIME, Reconstruction, split
from tacit.errors import MalformedMessage

VECTORS = Path(__file__).parent / "vectors"
X25519, HKDF, SHAMIR = (
    json.loads((VECTORS / f"{name}.json").read_text())
    for name in ("x25519_wycheproof", "hkdf_sha256_wycheproof", "shamir")
)


def x25519(scalar: bytes) -> HybridKey:
    """A key pair whose X25519 half is ``scalar``; the other half plays no part."""
    return HybridKey(scalar + bytes(KEM_SEED_BYTES))


def by_number(case: dict[str, Any]) -> str:
    return f"{case.get('tcId', '')} {case['comment']}".strip()


# X25519.

RFC_7748 = [  # section 5.2: scalar, u-coordinate, result
    (
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
    ),
    (
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
    ),
]


@pytest.mark.parametrize(("scalar", "point", "result"), RFC_7748)
def test_x25519_of_rfc_7748_section_5_2(scalar: str, point: str, result: str) -> None:
    assert x25519(bytes.fromhex(scalar)).agree(bytes.fromhex(point)).hex() == result


def test_x25519_iterated_a_thousand_times_as_in_rfc_7748_section_5_2() -> None:
    scalar = point = b"\t" + bytes(31)
    after = {}
    for count in range(1, 1001):
        scalar, point = x25519(scalar).agree(point), scalar
        after[count] = scalar.hex()
    assert after[1] == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert after[1000] == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@pytest.mark.parametrize("case", X25519["agreement"], ids=by_number)
def test_x25519_of_wycheproof(case: dict[str, Any]) -> None:
    key = x25519(bytes.fromhex(case["private"]))
    assert key.agree(bytes.fromhex(case["public"])).hex() == case["shared"]


@pytest.mark.parametrize("case", X25519["zero_shared_secret"], ids=by_number)
def test_every_spelling_of_a_point_of_small_order_is_refused(case: dict[str, Any]) -> None:
    """Also those that are not reduced or have the unused top bit set, which a list of known bytes would miss."""
    with pytest.raises(MalformedMessage, match="all-zero"):
        x25519(bytes.fromhex(case["private"])).agree(bytes.fromhex(case["public"]))


def test_the_points_of_small_order_come_in_many_spellings() -> None:
    points = {case["public"] for case in X25519["zero_shared_secret"]}
    assert len(points) >= 12
    assert any(point.endswith(("80", "ff")) for point in points), "none has the top bit set"


# HKDF, of which only the first block of output is ever used here.


def test_hkdf_of_rfc_5869_appendix_a_3() -> None:
    extracted = hkdf_extract(b"", b"\x0b" * 22)
    assert extracted.hex() == "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert hkdf_expand(extracted, b"").hex() == okm[:64]


@pytest.mark.parametrize("case", HKDF["derivation"], ids=by_number)
def test_hkdf_of_wycheproof(case: dict[str, Any]) -> None:
    extracted = hkdf_extract(bytes.fromhex(case["salt"]), bytes.fromhex(case["ikm"]))
    assert hkdf_expand(extracted, bytes.fromhex(case["info"])).hex()[: 2 * case["size"]] == case["okm"][:64]


# The mask stream.


@pytest.mark.parametrize("length", [1, 4, 17])
def test_the_mask_stream_is_what_gcm_adds_to_a_plaintext(length: int) -> None:
    """SP 800-38D, section 7.1: the ciphertext is the plaintext XOR the counter stream from ``inc32(J0)``."""
    seed = bytes(range(100, 132))
    plaintext = bytes(range(4 * length))
    ciphertext = AESGCM(seed).encrypt(bytes(12), plaintext, None)[:-16]
    stream = bytes(a ^ b for a, b in zip(plaintext, ciphertext, strict=True))
    np.testing.assert_array_equal(keystream(seed, length), np.frombuffer(stream, dtype="<u4"))


# Shamir.


@pytest.mark.parametrize("case", SHAMIR["polynomials"], ids=by_number)
def test_shares_are_the_values_of_the_polynomial(case: dict[str, Any]) -> None:
    random = b"".join(bytes.fromhex(coefficient) for coefficient in case["coefficients"])
    points = [share["point"] for share in case["shares"]]
    threshold = len(case["coefficients"]) + 1
    shares = split(bytes.fromhex(case["secret"]), threshold, points, lambda size: random[:size])
    assert [share.hex() for share in shares] == [share["share"] for share in case["shares"]]
    assert Reconstruction(points[-threshold:]).secret(shares[-threshold:]).hex() == case["secret"]


def test_the_vectors_reduce_coefficients_and_use_the_33rd_byte_of_a_share() -> None:
    coefficients = [int(c, 16) for case in SHAMIR["polynomials"] for c in case["coefficients"]]
    assert all(coefficient > PRIME for coefficient in coefficients)
