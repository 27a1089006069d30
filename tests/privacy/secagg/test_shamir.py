import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.secagg import shamir
from privacy.secagg.shamir import PRIME, Reconstruction, split, split_all
from tacit.errors import BadShare


def is_probable_prime(number: int) -> bool:
    """Miller and Rabin, with fixed bases."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in random.Random(1).sample(range(2, 10**9), 30):
        value = pow(base, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def naive_reconstruct(points, shares):
    """Lagrange at zero, one inversion for each point."""
    total = 0
    for i, x in enumerate(points):
        term = int.from_bytes(shares[i], "big")
        for j, other in enumerate(points):
            if i != j:
                term = term * other * pow(other - x, -1, PRIME) % PRIME
        total = (total + term) % PRIME
    return total


def seeded(seed):
    return random.Random(seed).randbytes


def test_the_prime_is_the_smallest_above_2_to_the_256():
    assert is_probable_prime(PRIME)
    assert not any(is_probable_prime(candidate) for candidate in range(2**256 + 1, PRIME, 2))


def test_known_polynomials():
    """f(x) = s + x + x^2 by hand: the random coefficients are all one."""
    one = (1).to_bytes(48, "big")
    secret = (5).to_bytes(32, "big")
    shares = split(secret, 3, [1, 2, 10], lambda size: one * 2)
    assert [int.from_bytes(share, "big") for share in shares] == [7, 11, 115]
    top = b"\xff" * 32  # 2^256 - 1; at x = 0x3fff the polynomial passes the prime
    shares = split(top, 2, [297, 298], lambda size: one)
    assert [int.from_bytes(share, "big") for share in shares] == [2**256 + 296, 0]


@given(st.binary(min_size=32, max_size=32), st.integers(2, 9), st.data())
def test_any_threshold_of_shares_gives_the_secret_as_naively(secret, threshold, data):
    count = data.draw(st.integers(threshold, 12))
    points = data.draw(st.lists(st.integers(1, 200), min_size=count, max_size=count, unique=True))
    shares = split(secret, threshold, points, seeded(1))
    chosen = data.draw(st.permutations(range(count)))[: data.draw(st.integers(threshold, count))]
    picked_points, picked = [points[i] for i in chosen], [shares[i] for i in chosen]
    assert Reconstruction(picked_points).secret(picked) == secret
    assert naive_reconstruct(picked_points, picked) == int.from_bytes(secret, "big")


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_fewer_shares_than_the_threshold_fit_every_secret(secret, other):
    """Perfect secrecy, constructively: a polynomial through two shares and any other secret exists."""
    shares = split(secret, 3, [1, 2, 3], seeded(4))
    target = int.from_bytes(other, "big")
    forged_third = None
    # The third share that makes the three say `other`: solve the linear equation at zero.
    base = naive_reconstruct([1, 2, 3], [shares[0], shares[1], bytes(33)])
    weight = naive_reconstruct([1, 2, 3], [bytes(33), bytes(33), (1).to_bytes(33, "big")])
    forged_third = (target - base) * pow(weight, -1, PRIME) % PRIME
    assert Reconstruction([1, 2, 3]).secret([*shares[:2], forged_third.to_bytes(33, "big")]) == other


def test_one_inversion_for_each_set_of_points(monkeypatch):
    calls = []

    def counting(*args):
        if args[1] == -1:
            calls.append(args)
        return pow(*args)

    monkeypatch.setattr(shamir, "pow", counting, raising=False)
    points = list(range(1, 23))
    reconstruction = Reconstruction(points)
    for i in range(5):
        secret = bytes([i]) * 32
        assert reconstruction.secret(split(secret, 22, points, seeded(i))) == secret
    assert len(calls) == 1


@pytest.mark.parametrize("points", [[], [1, 1], [0, 1], [1, PRIME], [-1, 2]])
def test_points_that_cannot_be_used_are_refused(points):
    with pytest.raises(ValueError, match="distinct"):
        split(bytes(32), 2, points, seeded(0))
    with pytest.raises(ValueError, match="distinct"):
        Reconstruction(points)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_secrets_have_32_bytes(size):
    with pytest.raises(ValueError, match="expected 32"):
        split(bytes(size), 2, [1, 2], seeded(0))


@pytest.mark.parametrize("bad", [b"", bytes(32), bytes(34), PRIME.to_bytes(33, "big"), b"\xff" * 33])
def test_a_share_that_is_no_field_element_is_refused(bad):
    good = split(bytes(32), 2, [1, 2], seeded(0))
    with pytest.raises(BadShare, match="33 bytes"):
        Reconstruction([1, 2]).secret([good[0], bad])


def test_shares_of_no_32_byte_secret_are_refused():
    """The field has 297 elements beyond 2^256; a constant polynomial of one of them."""
    element = (2**256 + 5).to_bytes(33, "big")
    with pytest.raises(BadShare, match="32-byte secret"):
        Reconstruction([1, 2]).secret([element, element])


def test_coefficients_use_all_their_randomness():
    sizes = []

    def recording(size):
        sizes.append(size)
        return bytes(size)

    split(bytes(32), 5, [1, 2, 3, 4, 5], recording)
    assert sizes == [4 * 48]


def naive_shares(secret, threshold, points, random_bytes):
    """One polynomial, one power at a time."""
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [int.from_bytes(random_bytes[48 * k : 48 * k + 48], "big") for k in range(threshold - 1)]
    values = [sum(c * point**k for k, c in enumerate(coefficients)) % PRIME for point in points]
    return [value.to_bytes(33, "big") for value in values]


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_many_secrets_are_split_as_naively_one_by_one(secrets, threshold, data):
    points = data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=6, unique=True))
    drawn = []

    def recording(size):
        drawn.append(random.Random(len(secrets)).randbytes(size))
        return drawn[-1]

    rows = split_all(secrets, threshold, points, recording)
    each = 48 * (threshold - 1)
    assert [len(draw) for draw in drawn] == [each * len(secrets)], "all the randomness at once, none of it shared"
    columns = [
        naive_shares(secret, threshold, points, drawn[0][each * i : each * i + each])
        for i, secret in enumerate(secrets)
    ]
    assert rows == list(zip(*columns, strict=True))


def test_polynomials_side_by_side_do_not_carry_into_each_other():
    """The largest cohort, the largest coefficients: between two largest secrets, the smallest one is as it was."""
    points, threshold = list(range(1, 129)), 86
    secrets = [b"\xff" * 32, bytes(32), b"\xff" * 32]
    ones = b"\xff" * (48 * (threshold - 1))
    zeros = bytes(len(ones))
    rows = split_all(secrets, threshold, points, lambda size: ones + zeros + ones)
    assert [row[1] for row in rows] == [bytes(33)] * 128
    largest = naive_shares(secrets[0], threshold, points, ones)
    assert [row[0] for row in rows] == [row[2] for row in rows] == largest
