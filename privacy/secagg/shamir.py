"""Shamir's secret sharing of 32-byte secrets over the prime field of 2^256 + 297 (Shamir 1979).

The prime is the smallest above 2^256, so every 32-byte string is a field element and none is reduced. Any
``threshold`` shares give the secret back; fewer are independent of it. Rebuilding many secrets from one set
of points costs one field inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tacit.errors import BadShare

PRIME = 2**256 + 297
SECRET_BYTES = 32
#: A field element needs 257 bits.
SHARE_BYTES = 33
#: 48 random bytes reduced mod the prime are within 2^-127 of uniform in statistical distance.
_COEFFICIENT_BYTES = 48


def split(secret: bytes, threshold: int, points: Sequence[int], random_bytes: Callable[[int], bytes]) -> list[bytes]:
    """Return one 33-byte big-endian share of ``secret`` for each of ``points``.

    Args:
        secret: 32 bytes.
        threshold: how many shares give the secret back.
        points: distinct integers from 1 to PRIME - 1, one for each holder.
        random_bytes: the polynomial's randomness; 48 bytes for each coefficient.

    Raises:
        ValueError: a secret of another size, or points that are repeated or out of range.
    """
    return [row[0] for row in split_all([secret], threshold, points, random_bytes)]


def split_all(
    secrets: Sequence[bytes], threshold: int, points: Sequence[int], random_bytes: Callable[[int], bytes]
) -> list[tuple[bytes, ...]]:
    """Split many secrets at once: for each of ``points``, its shares of all ``secrets`` in order.

    The k-th coefficients of all polynomials are laid side by side in one long integer, in slots wide enough that
    Horner's rule at a small point never carries from one into the next: one long multiplication by a small number does
    the work of as many short ones as there are secrets. Coefficients are not reduced; the shares are, at the end.

    Args, Raises: as :func:`split`.
    """
    if any(len(secret) != SECRET_BYTES for secret in secrets):
        raise ValueError(f"got secrets of {sorted(set(map(len, secrets)))} bytes; expected {SECRET_BYTES}")
    _check_points(points)
    degree = threshold - 1
    # below 2^384 for each coefficient, times less than 2 * x^degree for their sum
    slot_bytes = _COEFFICIENT_BYTES + (degree * max(points).bit_length() + 8) // 8
    drawn_bytes = _COEFFICIENT_BYTES * degree
    random = random_bytes(drawn_bytes * len(secrets))
    gap = bytes(slot_bytes - _COEFFICIENT_BYTES)
    coefficients = [
        int.from_bytes(
            b"".join(
                gap + random[start + at : start + at + _COEFFICIENT_BYTES]
                for start in range(0, len(random), drawn_bytes)
            ),
            "big",
        )
        for at in range(0, drawn_bytes, _COEFFICIENT_BYTES)
    ]
    wide = bytes(slot_bytes - SECRET_BYTES)
    constant = int.from_bytes(b"".join(wide + secret for secret in secrets), "big")
    size_bytes = slot_bytes * len(secrets)
    rows = []
    for point in points:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value + coefficient) * point
        data = (value + constant).to_bytes(size_bytes, "big")
        rows.append(
            tuple(
                (int.from_bytes(data[at : at + slot_bytes], "big") % PRIME).to_bytes(SHARE_BYTES, "big")
                for at in range(0, size_bytes, slot_bytes)
            )
        )
    return rows


class Reconstruction:
    """Lagrange interpolation at zero for one set of points, prepared once and applied to any number of
    secrets.

    Args:
        points: the distinct points of the shares that will be given, at least ``threshold`` of them.

    Raises:
        ValueError: points that are repeated or out of range.
    """

    def __init__(self, points: Sequence[int]) -> None:
        _check_points(points)
        numerators, denominators = [], []
        for i, point in enumerate(points):
            numerator = denominator = 1
            for j, other in enumerate(points):
                if i != j:
                    numerator = numerator * other % PRIME
                    denominator = denominator * (other - point) % PRIME
            numerators.append(numerator)
            denominators.append(denominator)
        inverses = _invert_all(denominators)
        self._weights = [n * d % PRIME for n, d in zip(numerators, inverses, strict=True)]

    def secret(self, shares: Sequence[bytes]) -> bytes:
        """Return the 32-byte secret whose ``shares`` are given in the order of the points.

        Raises:
            BadShare: a share is not 33 bytes below the prime, or the shares do not belong to a 32-byte
                secret.
        """
        total = 0
        for weight, share in zip(self._weights, shares, strict=True):
            value = int.from_bytes(share, "big")
            if len(share) != SHARE_BYTES or value >= PRIME:
                raise BadShare("a share is not an element of the field; expected 33 bytes below 2^256 + 297")
            total += weight * value
        total %= PRIME
        if total >= 2**256:
            raise BadShare("the shares do not belong to a 32-byte secret")
        return total.to_bytes(SECRET_BYTES, "big")


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or not points or not all(0 < point < PRIME for point in points):
        raise ValueError(f"points {list(points)} must be distinct integers from 1 to the prime less one")


def _invert_all(values: Sequence[int]) -> list[int]:
    """Invert all ``values`` mod the prime with one inversion (Montgomery 1987, section 10.3.1)."""
    prefixes = [1]
    for value in values:
        prefixes.append(prefixes[-1] * value % PRIME)
    running = pow(prefixes[-1], -1, PRIME)
    inverses = [0] * len(values)
    for i in reversed(range(len(values))):
        inverses[i] = running * prefixes[i] % PRIME
        running = running * values[i] % PRIME
    return inverses
