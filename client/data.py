"""A site's records, from CSV or JSONL: streamed, checked against the agreed labels, de-identified on load.

Where the privacy unit is a user, a key column says whose each record is. A key tells records of one user from those of
others and is forgotten once the file is read: it is in no text, no log and no error.

Errors name the file, the row and the label, for the person at the site. They quote data, so they never
travel: what the coordinator is told is :attr:`tacit.errors.RefusalReason.DATA` and nothing more.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final

from privacy.deidentify import Profile, profile_named
from privacy.events import PrivacyUnit
from privacy.terms import Agreement
from tacit.canonical import parse_json
from tacit.errors import ConfigError, DataError, InputError

CSV_SUFFIXES: Final = (".csv",)
JSONL_SUFFIXES: Final = (".jsonl", ".ndjson")

_SHOWN_NAMES = 20
#: more labels than these are not read through on one line; the nearest few are told instead
_READABLE_NAMES = 10
_CLOSE_NAMES = 3
_SHOWN_CHARACTERS = 60
_DIGEST_LABEL = b"tacit/dataset/v1\0"


@dataclass(frozen=True)
class LoadedData:
    """The records of one file, in its order.

    ``texts`` and ``labels`` have one entry a record; a label is its index in the agreed labels. Nothing
    here, and no number derived from it, leaves the site except through the DP mechanism.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    #: identifiers replaced, by type; all types of the profile are listed, also with zero
    deidentification: Mapping[str, int]
    #: ``sha256:<hex>`` of the file's bytes, whatever its name; for the site's own ledger only
    dataset_id: str
    #: whose each record is, users numbered as they first appear; None without a key column. The keys are forgotten
    owners: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def empty_texts(self) -> int:
        """Records whose text is blank. They are kept, for a record is a record; many of them hint at a wrong file."""
        return sum(not text.strip() for text in self.texts)


def load_private_records(
    path: Path, text_column: str, label_column: str, key_column: str | None, agreement: Agreement
) -> LoadedData:
    """Read a site's own records as its agreement says: labels, de-identification, privacy unit.

    Raises:
        ConfigError: see :func:`check_key_column`.
        DataError: as :func:`load_records`.
    """
    check_key_column(agreement.privacy.unit, key_column)
    return load_records(
        path,
        text_column,
        label_column,
        tuple(agreement.task.labels),
        profile=agreement.deidentification.profile,
        key_column=key_column,
    )


def check_key_column(unit: PrivacyUnit, key_column: str | None) -> None:
    """Refuse data that are not kept by the agreed privacy unit.

    Raises:
        ConfigError: unit user without a key column, or a key column under another unit.
    """
    if unit is PrivacyUnit.USER and key_column is None:
        raise ConfigError(
            "the agreement protects users, and no key column was named; expected the column that tells users apart",
            hint="name it: key_column in [data] of site.toml or in [[simulation.sites]], or --key-column",
        )
    if unit is not PrivacyUnit.USER and key_column is not None:
        raise ConfigError(
            f"the key column {key_column!r} was named, and the agreement protects each {unit.value}, not users; "
            "expected no key column",
            hint="leave the key column out, or agree on unit user in a new agreement",
        )


@dataclass(frozen=True)
class _Row:
    """One record's wanted fields, and where it is, for a person who looks for it."""

    place: str
    fields: tuple[str, ...]


def load_records(
    path: Path,
    text_column: str,
    label_column: str,
    labels: Sequence[str],
    *,
    profile: str | None,
    key_column: str | None = None,
) -> LoadedData:
    """Read a CSV or JSONL file with a text and a label column.

    Args:
        path: ``.csv`` (UTF-8 with or without BOM, comma, RFC 4180 quoting) or ``.jsonl``, ``.ndjson`` (one
            JSON object a line). Other columns are ignored. Empty texts are kept: a record is a record.
        text_column: name of the column with the text.
        label_column: name of the column with the label; a whole number in JSONL counts as its decimal text.
        labels: the agreed labels; a record's label becomes its index here.
        profile: name of the de-identification profile of the agreement, or None for public data.
        key_column: name of the column that says whose a record is. Equal keys are one user, compared as they are
            read: neither trimmed nor de-identified. A whole number in JSONL counts as its decimal text.

    Raises:
        DataError: missing or unreadable file, unknown suffix, not UTF-8, no records, a missing or repeated
            column, a ragged row, a bad JSON line, a label that was not agreed, or an empty key.
        ConfigError: no such profile.
    """
    deidentify: Profile = profile_named(profile if profile is not None else "none")
    index = {label: position for position, label in enumerate(labels)}
    texts: list[str] = []
    targets: list[int] = []
    owners: list[int] = []
    users: dict[str, int] = {}
    counts = dict.fromkeys(deidentify.types, 0)
    columns = (text_column, label_column) if key_column is None else (text_column, label_column, key_column)
    with _open(path) as stream:
        for row in _rows(path, stream, columns):
            text, label, *keys = row.fields
            for key in keys:
                if not key.strip():
                    raise DataError(
                        f"{path}, {row.place}: the key column {key_column!r} is empty, expected whose record it is",
                        hint="fill in the key, or leave the record out of the file",
                    )
                owners.append(users.setdefault(key, len(users)))
            target = index.get(label)
            if target is None:
                raise _unknown_label(path, row, label, label_column, labels)
            result = deidentify.apply(text)
            for kind, count in result.counts.items():
                counts[kind] += count
            texts.append(result.text)
            targets.append(target)
        digest = stream.hexdigest()
    if not texts:
        raise _no_records(path)
    return LoadedData(
        tuple(texts),
        tuple(targets),
        MappingProxyType(counts),
        f"sha256:{digest}",
        None if key_column is None else tuple(owners),
    )


def distinct_labels(path: Path, label_column: str) -> tuple[str, ...]:
    """Return the labels that occur in a file, sorted; for drafting an agreement from a public file.

    Args:
        path: as for :func:`load_records`.
        label_column: name of the column with the label.

    Raises:
        DataError: as for :func:`load_records`, except for unknown labels.
    """
    found: set[str] = set()
    with _open(path) as stream:
        for row in _rows(path, stream, (label_column,)):
            found.update(row.fields)
    if not found:
        raise _no_records(path)
    return tuple(sorted(found))


def check_first_record(
    path: Path, text_column: str, label_column: str, key_column: str | None, labels: Sequence[str]
) -> None:
    """Read the header and the first record: enough to find a wrong file or column before anything is set up.

    Args:
        path: as for :func:`load_records`, and so are the columns and ``labels``.

    Raises:
        DataError: as for :func:`load_records`, about this much of the file.
    """
    columns = (text_column, label_column) if key_column is None else (text_column, label_column, key_column)
    with _open(path) as stream:
        row = next(_rows(path, stream, columns), None)
    if row is None:
        raise _no_records(path)
    if row.fields[1] not in labels:
        raise _unknown_label(path, row, row.fields[1], label_column, labels)


class _HashingStream(io.RawIOBase):
    """Passes bytes on and hashes them, so that the digest is of exactly what was parsed."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._hasher = hashlib.sha256(_DIGEST_LABEL)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self._hasher.update(data)
        buffer[: len(data)] = data
        return len(data)

    def hexdigest(self) -> str:
        """Hash of everything read; complete once the parser has seen the end of the file."""
        return self._hasher.hexdigest()


@contextmanager
def _open(path: Path) -> Iterator[_HashingStream]:
    if path.suffix.lower() not in (*CSV_SUFFIXES, *JSONL_SUFFIXES):
        raise DataError(
            f"{path} ends in {path.suffix!r}, expected one of: {', '.join((*CSV_SUFFIXES, *JSONL_SUFFIXES))}",
            hint="export the data as UTF-8 CSV or as JSONL",
        )
    try:
        with path.open("rb") as raw:
            yield _HashingStream(raw)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}", hint="check the path and the file's permissions"
        ) from error


def _rows(path: Path, stream: _HashingStream, columns: tuple[str, ...]) -> Iterator[_Row]:
    if len(set(columns)) != len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        what = "text, label and key" if len(columns) > 2 else "text and label"
        raise DataError(f"{path}: {what} name the column {twice!r} twice, expected different columns")
    text = io.TextIOWrapper(io.BufferedReader(stream, 1 << 16), encoding="utf-8-sig", newline="")
    read = _csv_rows if path.suffix.lower() in CSV_SUFFIXES else _jsonl_rows
    try:
        yield from read(path, text, columns)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {_first_undecodable_line(path)}: not UTF-8 text",
            hint="save the file with the encoding UTF-8",
        ) from error
    finally:
        text.detach()


def _csv_rows(path: Path, text: io.TextIOWrapper, columns: tuple[str, ...]) -> Iterator[_Row]:
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise DataError(f"{path} is empty, expected a header line", hint="check how the file was exported")
        positions = [_position(path, header, column) for column in columns]
        number = 0
        for fields in reader:
            if not fields:  # an empty line, as editors leave at the end
                continue
            number += 1
            place = f"row {number} (line {reader.line_num})"
            if len(fields) != len(header):
                raise DataError(
                    f"{path}, {place}: {len(fields)} fields, expected {len(header)} as in the header",
                    hint="quote texts that contain commas, quotes or line breaks",
                )
            yield _Row(place, tuple(fields[position] for position in positions))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not CSV: {error}",
            hint="a quote is probably not closed, or not doubled inside a quoted text",
        ) from error


def _position(path: Path, header: list[str], column: str) -> int:
    if header.count(column) > 1:
        raise DataError(f"{path} has the column {column!r} {header.count(column)} times, expected once")
    if column not in header:
        single = len(header) == 1 and any(mark in header[0] for mark in ";\t|")
        raise DataError(
            f"{path} has no column {column!r}; columns found: {_listed(header)}",
            hint="the separator must be a comma" if single else "name the column as the header spells it",
        )
    return header.index(column)


def _jsonl_rows(path: Path, text: io.TextIOWrapper, columns: tuple[str, ...]) -> Iterator[_Row]:
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            record = parse_json(line)
        except InputError as error:
            raise DataError(f"{path}, {place}: {error.message}", hint="every line must be one JSON object") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, {place}: a JSON {type(record).__name__}, expected an object")
        yield _Row(place, tuple(_field(path, place, record, column) for column in columns))


def _field(path: Path, place: str, record: Mapping[str, Any], column: str) -> str:
    if column not in record:
        raise DataError(
            f"{path}, {place}: no field {column!r}; fields found: {_listed(tuple(record))}",
            hint="every line needs the text and the label field, and the key field if there is one",
        )
    value = record[column]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{path}, {place}: the field {column!r} is {type(value).__name__}, expected text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{path}, {place}: the field {column!r} holds half of a surrogate pair, expected text")
    return value


def _first_undecodable_line(path: Path) -> int:
    """A text reader decodes ahead in blocks; this finds the line a person has to look at."""
    with path.open("rb") as raw:
        for number, line in enumerate(raw, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _no_records(path: Path) -> DataError:
    return DataError(f"{path} has no records, expected at least one", hint="check the file and its header")


def _unknown_label(path: Path, row: _Row, label: str, column: str, labels: Sequence[str]) -> DataError:
    """Many labels on one line help nobody: the likely ones, or how many there are, where they are too many to see."""
    close = difflib.get_close_matches(label, labels, n=_CLOSE_NAMES)
    if len(labels) <= _READABLE_NAMES:
        expected = f"expected one of: {_listed(labels)}"
    elif close:
        expected = f"expected one of the {len(labels)} agreed labels; did you mean {_alternatives(close)}?"
    else:
        expected = (
            f"expected one of the {len(labels)} agreed labels, for example {_alternatives(labels[:_CLOSE_NAMES])}"
        )
    return DataError(
        f"{path}, {row.place}: unknown label {_short(label)} in column {column!r}, {expected}",
        hint="correct the row, or agree on the label in a new agreement; `tacit agreement show` lists them",
    )


def _alternatives(names: Sequence[str]) -> str:
    return " or ".join(_short(name) for name in names)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(_short(name) for name in names[:_SHOWN_NAMES])
    more = len(names) - _SHOWN_NAMES
    return shown + (f" and {more} more" if more > 0 else "")


def _short(value: str) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."
