"""Check digits. Each function says whether a number could be real, so that others are left alone."""

from __future__ import annotations

from typing import Final

_MOD_11_2_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_MOD_11_2_CHECKS: Final = "10X98765432"

_USCC_ALPHABET: Final = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_VALUES: Final = {character: value for value, character in enumerate(_USCC_ALPHABET)}
_USCC_WEIGHTS: Final = tuple(pow(3, position, 31) for position in range(17))


def passes_luhn(digits: str) -> bool:
    """Luhn's formula (ISO/IEC 7812-1, annex B) over a string of ASCII digits."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = ord(character) - 48
        if position % 2:
            value *= 2
            if value > 9:
                value -= 9
        total += value
    return total % 10 == 0


def passes_mod_97(iban: str) -> bool:
    """ISO/IEC 7064 MOD 97-10 as ISO 13616 applies it: upper-case letters and digits without separators."""
    rearranged = iban[4:] + iban[:4]
    return int("".join(str(int(character, 36)) for character in rearranged)) % 97 == 1


def passes_mod_11_2(number: str) -> bool:
    """ISO/IEC 7064 MOD 11-2 over 17 digits and a check character 0-9 or X (GB 11643-1999)."""
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], _MOD_11_2_WEIGHTS, strict=True))
    return _MOD_11_2_CHECKS[total % 11] == number[17]


def passes_mod_31(code: str) -> bool:
    """GB 32100-2015 over 17 characters and a check character, of digits and letters without I, O, S, V, Z."""
    try:
        values = [_USCC_VALUES[character] for character in code]
    except KeyError:
        return False
    total = sum(value * weight for value, weight in zip(values[:17], _USCC_WEIGHTS, strict=True))
    return (31 - total % 31) % 31 == values[17]
