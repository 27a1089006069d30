"""Where identifiers with a form of their own are in a text: email, IP address, IBAN, US SSN, Chinese numbers.

Each function takes folded text (see :func:`privacy.deidentify.folding.fold`) and yields half-open spans
``(start, end)`` in ascending order without overlap. Precision, type by type:

- email: an address with a dotted domain or a domain literal. ``user@intranet`` and "user at example" are
  missed.
- IP address: any dotted quad up to 255 is taken, so a version number of four parts is too, unless a "v"
  precedes it.
- IBAN: country, length and MOD 97-10 must fit; one in 97 random strings of that form passes.
- US SSN: no checksum exists. Form and never-issued ranges are checked; nine bare digits count only after a
  word such as "SSN".
- Chinese resident ID: 18 characters, province, date of birth and check character. The 15-digit form that
  ended in 2013 is missed.
- Chinese USCC: 18 characters and check character; it names organisations and sole traders.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from datetime import date
from typing import Final

from privacy.deidentify.checksums import passes_mod_11_2, passes_mod_31, passes_mod_97

Span = tuple[int, int]

# Letters of alphabets that separate words by blanks. Han, kana and the like do not, so there an address would
# swallow the sentence around it.
_LETTERS = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ԯ"
_LABEL = rf"[{_LETTERS}0-9](?:[{_LETTERS}0-9-]{{0,61}}[{_LETTERS}0-9])?"
_AT_DOMAIN = re.compile(
    rf"@(?:(?:{_LABEL}\.)+(?:xn--[A-Za-z0-9-]{{2,59}}|[{_LETTERS}]{{2,63}})|\[(?:IPv6:)?[0-9A-Fa-f.:]+\])"
)
_LOCAL_CHARACTER = re.compile(rf"[{_LETTERS}0-9.!#$%&'*+/=?^_`{{|}}~-]")
_QUOTED_LOCAL = re.compile(r'"[^"\n]{1,64}"$')

_IPV4 = re.compile(r"(?<![0-9.])(?<![vV])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9])(?!\.[0-9])")
_IPV6 = re.compile(r"(?<![0-9A-Za-z:.])(?=[0-9A-Fa-f]*:[0-9A-Fa-f]*:)[0-9A-Fa-f:.]{3,45}(?![0-9A-Za-z])")

_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ -]?[A-Za-z0-9])")
#: ISO 13616, IBAN registry (SWIFT): length by country
IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27,
    "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28,
    "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23,
    "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26,
    "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28,
    "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22,
    "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25,
    "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip

# Area numbers 000, 666 and 900-999, group 00 and serial 0000 are never issued (US SSA, "SSN randomization").
_SSN_PARTS = r"(?!000|666|9)[0-9]{3}%s(?!00)[0-9]{2}%s(?!0000)[0-9]{4}"
_SSN = (
    re.compile(r"(?<![0-9A-Za-z])(?<![0-9]-)" + _SSN_PARTS % ("-", "-") + r"(?![0-9A-Za-z])(?!-[0-9])"),
    re.compile(r"(?<![0-9A-Za-z])(?<![0-9][ -])" + _SSN_PARTS % (" ", " ") + r"(?![0-9A-Za-z])(?![ -][0-9])"),
    re.compile(
        r"(?i:\bssn\b|social[ -]security)[^0-9\n]{0,24}?(?<![0-9A-Za-z])(" + _SSN_PARTS % ("", "") + r")(?![0-9A-Za-z])"
    ),
)

_RESIDENT_ID = re.compile(
    r"(?<![0-9A-Za-z])([1-9][0-9]{5})([ -]?)((?:18|19|20)[0-9]{6})\2([0-9]{3}[0-9Xx])(?![0-9A-Za-z])"
)
#: GB/T 2260, the first two digits of an area code; 81 to 83: residence permits of Hong Kong, Macao and Taiwan
#: residents; 90 and above: foreigners' permanent residence (2023 format)
_PROVINCES: Final = frozenset(
    [
        "11",
        "12",
        "13",
        "14",
        "15",
        "21",
        "22",
        "23",
        "31",
        "32",
        "33",
        "34",
        "35",
        "36",
        "37",
        "41",
        "42",
        "43",
        "44",
        "45",
        "46",
        "50",
        "51",
        "52",
        "53",
        "54",
        "61",
        "62",
        "63",
        "64",
        "65",
        "71",
        "81",
        "82",
        "83",
        "91",
        "92",
        "93",
        "94",
    ]
)
_USCC = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-HJ-NPQRTUWXY]{2}[0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}(?![0-9A-Za-z])", re.IGNORECASE
)


def find_emails(text: str) -> Iterator[Span]:
    """Addresses after RFC 5322 section 3.4.1 and RFC 6531, without comments and folding."""
    end_of_last = 0
    for match in _AT_DOMAIN.finditer(text):
        start = at = match.start()
        if quoted := _QUOTED_LOCAL.search(text, max(end_of_last, at - 66), at):
            start = quoted.start()
        else:
            # Leftwards by hand: a pattern that starts with the local part is quadratic on long unbroken
            # texts.
            while start > end_of_last and _LOCAL_CHARACTER.match(text[start - 1]):
                start -= 1
            while start < at and text[start] in ".'":
                start += 1
        if start < at:
            end_of_last = match.end()
            yield start, match.end()


def find_ip_addresses(text: str) -> Iterator[Span]:
    """IPv4 dotted quads and IPv6 in any form of RFC 4291 section 2.2 that has a decimal digit."""
    spans = []
    for match in _IPV6.finditer(text):
        candidate = match.group().rstrip(".")
        candidate = candidate if candidate.endswith("::") else candidate.rstrip(":")
        if any(character.isdecimal() for character in candidate) and _is_ipv6(candidate):
            spans.append((match.start(), match.start() + len(candidate)))
    for match in _IPV4.finditer(text):
        inside = any(start <= match.start() < end for start, end in spans)
        if not inside and all(int(octet) <= 255 for octet in match.group().split(".")):
            spans.append(match.span())
    yield from sorted(spans)


def find_ibans(text: str) -> Iterator[Span]:
    """IBANs of the registry's countries, together or in groups separated by one blank or hyphen."""
    end_of_last = 0
    for match in _IBAN_START.finditer(text):
        length = IBAN_LENGTHS.get(match.group()[:2].upper())
        if length is None or match.start() < end_of_last:
            continue
        collected, position = "", match.start()
        while len(collected) < length and position < len(text):
            character = text[position]
            if character.isascii() and character.isalnum():
                collected += character.upper()
            elif character not in " -" or text[position - 1] in " -":
                break
            position += 1
        ends_here = position == len(text) or not (text[position].isascii() and text[position].isalnum())
        if len(collected) == length and ends_here and passes_mod_97(collected):
            end_of_last = position
            yield match.start(), position


def find_us_ssns(text: str) -> Iterator[Span]:
    """Social security numbers as 3-2-4 digits, or as nine digits after a word that says so."""
    spans = {match.span(match.lastindex or 0) for pattern in _SSN for match in pattern.finditer(text)}
    yield from sorted(spans)


def find_cn_resident_ids(text: str) -> Iterator[Span]:
    """Resident identity numbers of GB 11643-1999, together or split 6-8-4."""
    for match in _RESIDENT_ID.finditer(text):
        area, _, birth, rest = match.groups()
        if area[:2] in _PROVINCES and _is_date(birth) and passes_mod_11_2((area + birth + rest).upper()):
            yield match.span()


def find_cn_usccs(text: str) -> Iterator[Span]:
    """Unified social credit codes of GB 32100-2015."""
    for match in _USCC.finditer(text):
        if passes_mod_31(match.group().upper()):
            yield match.span()


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_date(digits: str) -> bool:
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return True
