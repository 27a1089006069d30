"""One character for one: the ASCII form of digits, letters, dashes and blanks, so patterns meet one spelling.

Full-width forms are common in Chinese and Japanese texts, typographic dashes and hard blanks everywhere.
The folded text has the same length as the text, so that a span found in one is a span of the other.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_DIGITS = {code: 48 + unicodedata.decimal(chr(code)) for code in range(0x660, 0x10000) if chr(code).isdecimal()}
_DASHES = dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2015, 0x2212, 0xFE58, 0xFE63), ord("-"))
_BLANKS = dict.fromkeys((0x09, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), ord(" "))

_FOLDS: Final = _DIGITS | _FULL_WIDTH | _DASHES | _BLANKS


def fold(text: str) -> str:
    """Return ``text`` with every character in its ASCII form if it has one; the length stays the same."""
    return text if text.isascii() and "\t" not in text else text.translate(_FOLDS)
