"""How fast this core makes AES-256 keystream at best: the yardstick for masks, which are keystream plus addition.

``openssl speed`` says it where the command exists. Elsewhere the cipher of the ``cryptography`` package is timed on a
buffer made beforehand, without the addition.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from simulations.benchmarks.secure_step import draw_seeds, mask

BLOCK_BYTES = 1 << 18
_SPEED = ("speed", "-evp", "aes-256-gcm", "-seconds", "1", "-bytes", str(BLOCK_BYTES))
#: the last line of the table: a name and thousands of bytes in a second
_ROW = re.compile(r"^aes-256-gcm\s+([0-9.]+)k\s*$", re.IGNORECASE | re.MULTILINE)
_ROW_IN_BYTES = re.compile(r"^aes-256-gcm\s+([0-9.]+)\s*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class KeystreamRate:
    """A rate and where it comes from."""

    bytes_per_s: float
    source: str


def parse_speed(output: str) -> float:
    """Return bytes in a second from the table that ``openssl speed -evp aes-256-gcm`` prints.

    Raises:
        ValueError: there is no such line in it.
    """
    if found := _ROW.search(output):
        return float(found[1]) * 1000
    if found := _ROW_IN_BYTES.search(output):
        return float(found[1])
    raise ValueError(f"got {output[-200:]!r}; expected a line like 'AES-256-GCM    4799910.14k'")


def plain_rate() -> KeystreamRate:
    """Measure the keystream alone for about a second of CPU."""
    binary = shutil.which("openssl")
    if binary is not None:
        command = [binary, *_SPEED]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        try:
            return KeystreamRate(parse_speed(ran.stdout), " ".join(("openssl", *_SPEED)))
        except ValueError:
            pass  # a build without this command or cipher
    return KeystreamRate(cipher_rate(), "the cipher of the cryptography package alone: there is no openssl speed")


def cipher_rate(size_bytes: int = 1 << 28) -> float:
    """Return bytes of keystream in a CPU second, made into a buffer of 256 KiB that is there already."""
    encryptor = Cipher(algorithms.AES256(draw_seeds(1)[0]), modes.GCM(bytes(12))).encryptor()
    zeros, buffer = memoryview(bytes(BLOCK_BYTES)), bytearray(BLOCK_BYTES)
    blocks = max(1, size_bytes // BLOCK_BYTES)
    started = time.process_time()
    for _ in range(blocks):
        encryptor.update_into(zeros, buffer)
    return blocks * BLOCK_BYTES / (time.process_time() - started)


def mask_rate(length: int, masks: int) -> float:
    """Return bytes of mask made and added in a CPU second: ``masks`` masks on a vector of ``length``."""
    vector, seeds = np.zeros(length, dtype="<u4"), draw_seeds(masks)
    started = time.process_time()
    mask(vector, seeds)
    return 4 * length * masks / (time.process_time() - started)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts, on one core: rates of different cores cannot be compared."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
