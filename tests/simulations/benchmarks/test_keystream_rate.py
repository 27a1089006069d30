"""What ``openssl speed`` prints is understood, and rates are rates."""

from __future__ import annotations

import pytest

from simulations.benchmarks.keystream_rate import cipher_rate, mask_rate, parse_speed

#: printed by OpenSSL 3.0.19 for ``openssl speed -evp aes-256-gcm -seconds 1 -bytes 262144``
PRINTED = """version: 3.0.19
built on: Fri Apr  3 12:29:32 2026 UTC
options: bn(64,64)
CPUINFO: OPENSSL_ia32cap=0xfffa32034f8bffff:0x415f46f1bf2ffb
The 'numbers' are in 1000s of bytes per second processed.
type         262144 bytes
AES-256-GCM    4799910.14k
"""


def test_the_last_line_is_in_thousands_of_bytes() -> None:
    assert parse_speed(PRINTED) == pytest.approx(4_799_910_140)


def test_older_releases_write_the_name_in_lower_case() -> None:
    assert parse_speed("type         262144 bytes\naes-256-gcm    4000.00k\n") == pytest.approx(4_000_000)


def test_slow_machines_get_plain_bytes() -> None:
    assert parse_speed("AES-256-GCM     900.50 \n") == pytest.approx(900.5)


@pytest.mark.parametrize("printed", ["", "speed: Unknown algorithm aes-256-gcm\n", "type  262144 bytes\n"])
def test_anything_else_is_refused(printed: str) -> None:
    with pytest.raises(ValueError, match="expected a line like"):
        parse_speed(printed)


def test_rates_are_above_zero() -> None:
    assert cipher_rate(1 << 22) > 0
    assert mask_rate(200_000, 3) > 0
