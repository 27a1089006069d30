"""A site's records: every form a file may have, every way it may be wrong, and what the loader returns."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.data import LoadedData, check_first_record, check_key_column, distinct_labels, load_records
from privacy.events import PrivacyUnit
from tacit.errors import ConfigError, DataError

LABELS = ("lost", "transfer", "no")
BANKING77 = Path(__file__).parents[2].parent / "shared" / "data" / "banking77"


def load(path: Path, profile: str | None = None, **changes: Any) -> LoadedData:
    arguments: dict[str, Any] = {"text_column": "text", "label_column": "label", "labels": LABELS} | changes
    return load_records(path, **arguments, profile=profile)


def written(folder: Path, content: str | bytes, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(match: str) -> Any:
    return pytest.raises(DataError, match=match)


# --- whose a record is -------------------------------------------------------------------------------------------


def test_records_of_one_key_are_one_user_s(tmp_path: Path) -> None:
    path = written(tmp_path, "who,text,label\nu7,a,lost\nu2,b,no\nu7,c,no\nu9,d,lost\nu2,e,lost\n")
    data = load(path, key_column="who")
    assert data.owners == (0, 1, 0, 2, 1)
    assert data.texts == ("a", "b", "c", "d", "e")
    assert load(path).owners is None
    lines = "".join(json.dumps({"who": who, "text": "a", "label": "no"}) + "\n" for who in (7, "x", "7"))
    assert load(written(tmp_path, lines, "data.jsonl"), key_column="who").owners == (0, 1, 0)


def test_keys_are_told_apart_as_they_are_read(tmp_path: Path) -> None:
    """De-identification would make one user of all; trimming and case folding would join some."""
    keys = ["ann@example.org", "bob@example.org", "Bob@example.org", " bob@example.org", "+44 20 7946 0958", "0", "00"]
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("who", "text", "label"), *((key, "call ann@example.org", "no") for key in keys * 2)])
    data = load(written(tmp_path, stream.getvalue()), "standard-v1", key_column="who")
    assert data.owners == tuple(range(len(keys))) * 2
    assert data.deidentification["email"] == 2 * len(keys), "keys were counted, or texts were not"
    assert all("ann@example.org" not in text for text in data.texts)


@pytest.mark.parametrize("empty", ["", "  ", "\t", "\u00a0"])
def test_an_empty_key_is_nobody(tmp_path: Path, empty: str) -> None:
    for name, content in (
        ("data.csv", f"who,text,label\nu1,a,lost\n{empty},b,lost\n"),
        (
            "data.jsonl",
            '{"who": "u1", "text": "a", "label": "no"}\n' + json.dumps({"who": empty, "text": "b", "label": "no"}),
        ),
    ):
        with refused(r"(row|line) 2.*the key column 'who' is empty, expected whose record it is"):
            load(written(tmp_path, content, name), key_column="who")


def test_a_missing_key_is_refused(tmp_path: Path) -> None:
    with refused("no column 'who'; columns found: 'text', 'label'"):
        load(written(tmp_path, "text,label\na,lost\n"), key_column="who")
    with refused("line 1: no field 'who'"):
        load(written(tmp_path, '{"text": "a", "label": "no"}\n', "data.jsonl"), key_column="who")
    for value in (None, True, 1.5, ["u1"]):
        line = json.dumps({"who": value, "text": "a", "label": "no"})
        with refused("the field 'who' is"):
            load(written(tmp_path, line, "data.jsonl"), key_column="who")


def test_no_error_and_no_result_holds_a_key(tmp_path: Path) -> None:
    secret = "customer-4711"
    good = f"who,text,label\n{secret},a,lost\n"
    assert secret not in repr(load(written(tmp_path, good), key_column="who"))
    for bad in (good + f"{secret},b,wrong\n", good + f"{secret},b\n", good + f'{secret},"b,no\n', good + ",b,no\n"):
        with pytest.raises(DataError) as caught:
            load(written(tmp_path, bad), key_column="who")
        assert secret not in f"{caught.value.message} {caught.value.hint}"


def test_a_key_column_goes_with_unit_user_and_with_no_other(tmp_path: Path) -> None:
    check_key_column(PrivacyUnit.USER, "who")
    check_key_column(PrivacyUnit.RECORD, None)
    with pytest.raises(ConfigError, match="protects users, and no key column was named") as caught:
        check_key_column(PrivacyUnit.USER, None)
    assert "--key-column" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match="key column 'who' was named, and the agreement protects each record"):
        check_key_column(PrivacyUnit.RECORD, "who")


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda key: bool(key.strip())), min_size=1))
def test_any_grouping_survives_the_file(tmp_path_factory: pytest.TempPathFactory, keys: list[str]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "who", "label"), *(("a", key, "no") for key in keys)])
    path = written(tmp_path_factory.getbasetemp(), stream.getvalue(), "keys.csv")
    owners = load(path, "standard-v1", key_column="who").owners
    assert owners is not None
    assert [[a == b for a in keys] for b in keys] == [[a == b for a in owners] for b in owners]


# --- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("text,label\nhello,lost\n", ("hello",)),
        ("text,label\r\nhello,lost\r\n", ("hello",)),
        ("text,label\nhello,lost", ("hello",)),
        ("\ufefftext,label\nhello,lost\n", ("hello",)),
        ("label,id,text\nlost,7,hello\n", ("hello",)),
        ('text,label\n"hello, ""you""",lost\n', ('hello, "you"',)),
        ('text,label\n"two\nlines",lost\nx,no\n', ("two\nlines", "x")),
        ('text,label\n"two\r\nlines",lost\n', ("two\r\nlines",)),
        ('"text","label"\n"hello","lost"\n', ("hello",)),
        ("text,label\n,lost\n", ("",)),
        ("text,label\n  padded  ,lost\n", ("  padded  ",)),
        ('text,label\n5" screen,lost\n', ('5" screen',)),
        ("text,label\n\nhello,lost\n\n\n", ("hello",)),
        ("text,label\nпривет 你好 🎉,lost\n", ("привет 你好 🎉",)),
        ("text,label\na\u2028b,lost\n", ("a\u2028b",)),
    ],
)
def test_csv_in_all_its_forms(tmp_path: Path, content: str, texts: tuple[str, ...]) -> None:
    data = load(written(tmp_path, content))
    assert data.texts == texts
    assert data.labels[0] == 0
    assert len(data) == len(texts) == len(data.labels)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('{"text": "hello", "label": "lost"}\n', ("hello",)),
        ('\ufeff{"text": "hello", "label": "lost"}', ("hello",)),
        ('{"label": "lost", "n": [1, {"a": null}], "text": "two\\nlines"}\r\n\n', ("two\nlines",)),
        ('{"text": "\\u4f60 \\ud83c\\udf89", "label": "lost"}\n', ("你 🎉",)),
        ('{"text": "a\u2028b", "label": "lost"}\n', ("a\u2028b",)),
    ],
)
def test_jsonl_in_all_its_forms(tmp_path: Path, content: str, texts: tuple[str, ...]) -> None:
    for name in ("data.jsonl", "data.ndjson", "DATA.JSONL"):
        data = load(written(tmp_path, content, name))
        assert (data.texts, data.labels) == (texts, (0,))


def test_whole_numbers_are_labels_in_jsonl(tmp_path: Path) -> None:
    path = written(tmp_path, '{"text": "a", "label": 1}\n{"text": "b", "label": "0"}\n', "data.jsonl")
    assert load(path, labels=("0", "1")).labels == (1, 0)


def test_labels_become_their_place_in_the_agreed_order(tmp_path: Path) -> None:
    path = written(tmp_path, "text,label\na,no\nb,lost\nc,transfer\nd,no\n")
    assert load(path).labels == (2, 0, 1, 2)
    assert load(path, labels=("no", "lost", "transfer")).labels == (0, 1, 2, 0)


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.sampled_from(LABELS)), min_size=1, max_size=8))
def test_what_a_csv_writer_wrote_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *rows])
    data = load(written(tmp_path_factory.getbasetemp(), stream.getvalue(), "written.csv"))
    assert data.texts == tuple(text for text, _ in rows)
    assert data.labels == tuple(LABELS.index(label) for _, label in rows)


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.sampled_from(LABELS)), min_size=1, max_size=8))
def test_what_a_json_writer_wrote_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    lines = "".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)
    data = load(written(tmp_path_factory.getbasetemp(), lines, "written.jsonl"))
    assert data.texts == tuple(text for text, _ in rows)


def test_the_dataset_id_is_of_the_bytes_and_not_of_the_name(tmp_path: Path) -> None:
    content = b"text,label\n" + b"hello,lost\n" * 50_000
    one = load(written(tmp_path, content, "one.csv")).dataset_id
    assert one == load(written(tmp_path, content, "two.csv")).dataset_id
    assert one == "sha256:" + hashlib.sha256(b"tacit/dataset/v1\0" + content).hexdigest()
    assert one != load(written(tmp_path, content + b"hello,no\n", "one.csv")).dataset_id


def test_the_same_file_is_the_same_dataset_whatever_is_read_from_it(tmp_path: Path) -> None:
    path = written(tmp_path, "text,label,other\na,lost,b\n")
    assert load(path).dataset_id == load(path, text_column="other", profile="standard-v1").dataset_id


# --- de-identification -------------------------------------------------------------------------------------------


def test_texts_are_deidentified_on_load(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "text,label\nmail jane@example.com,lost\nmy card 4111 1111 1111 1111 and joe@example.com,no\nnothing,no\n",
    )
    data = load(path, profile="standard-v1")
    assert data.texts == ("mail [EMAIL]", "my card [CARD] and [EMAIL]", "nothing")
    assert {kind: count for kind, count in data.deidentification.items() if count} == {"email": 2, "card": 1}
    assert data.deidentification["iban"] == 0


@pytest.mark.parametrize("profile", [None, "none"])
def test_without_a_profile_texts_stay_as_they_are(tmp_path: Path, profile: str | None) -> None:
    data = load(written(tmp_path, "text,label\nmail jane@example.com,lost\n"), profile=profile)
    assert data.texts == ("mail jane@example.com",)
    assert not data.deidentification


def test_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'strict' is not a de-identification profile"):
        load(written(tmp_path, "text,label\na,lost\n"), profile="strict")


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    with refused(r"cannot read .*absent\.csv: No such file"):
        load(tmp_path / "absent.csv")


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with refused(r"cannot read .*folder\.csv: Is a directory"):
        load(tmp_path / "folder.csv")


@pytest.mark.parametrize("name", ["data.xlsx", "data.txt", "data", "data.csv.gz", "data.tsv"])
def test_another_kind_of_file(tmp_path: Path, name: str) -> None:
    with refused(r"expected one of: \.csv, \.jsonl, \.ndjson"):
        load(written(tmp_path, "text,label\na,lost\n", name))


@pytest.mark.parametrize(
    ("content", "name", "match"),
    [
        ("", "data.csv", r"data\.csv is empty, expected a header line"),
        ("\ufeff", "data.csv", "is empty"),
        ("text,label\n", "data.csv", "has no records"),
        ("text,label\n\n\n", "data.csv", "has no records"),
        ("", "data.jsonl", "has no records"),
        ("\n\n", "data.jsonl", "has no records"),
    ],
)
def test_an_empty_file(tmp_path: Path, content: str, name: str, match: str) -> None:
    with refused(match):
        load(written(tmp_path, content, name))
    with refused(match):
        distinct_labels(tmp_path / name, "label")


def test_a_wrong_column_lists_the_columns_found(tmp_path: Path) -> None:
    path = written(tmp_path, "message,category\na,lost\n")
    with refused(r"data\.csv has no column 'text'; columns found: 'message', 'category'"):
        load(path)
    with refused("has no column 'intent'; columns found"):
        load(path, text_column="message", label_column="intent")
    path = written(tmp_path, '{"message": "a", "label": "lost"}\n', "data.jsonl")
    with refused(r"data\.jsonl, line 1: no field 'text'; fields found: 'message', 'label'"):
        load(path)


def test_another_separator_is_recognised_in_the_hint(tmp_path: Path) -> None:
    with refused("has no column 'text'; columns found: 'text;label'") as caught:
        load(written(tmp_path, "text;label\na;lost\n"))
    assert "comma" in (caught.value.hint or "")


def test_many_columns_are_not_all_listed(tmp_path: Path) -> None:
    header = ",".join(f"column-{index}" for index in range(1000))
    with refused(r"and 980 more") as caught:
        load(written(tmp_path, header + "\n"))
    assert len(caught.value.message) < 800


def test_a_repeated_column(tmp_path: Path) -> None:
    with refused("has the column 'text' 2 times"):
        load(written(tmp_path, "text,text,label\na,b,lost\n"))


def test_one_column_for_both(tmp_path: Path) -> None:
    with refused("text and label name the column 'text' twice"):
        load(written(tmp_path, "text,label\na,lost\n"), label_column="text")
    for column in ("text", "label"):
        with refused(f"text, label and key name the column '{column}' twice"):
            load(written(tmp_path, "text,label\na,lost\n"), key_column=column)


def test_an_unknown_label_names_the_row_and_what_is_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, 'text,label\n"two\nlines",lost\nb,Lost\n')
    with refused(
        r"data\.csv, row 2 \(line 4\): unknown label 'Lost' in column 'label', "
        r"expected one of: 'lost', 'transfer', 'no'"
    ) as caught:
        load(path)
    assert "new agreement" in (caught.value.hint or "")
    path = written(tmp_path, '\n{"text": "a", "label": "lost "}\n', "data.jsonl")
    with refused(r"data\.jsonl, line 2: unknown label 'lost '"):
        load(path)


def test_of_many_labels_only_the_nearest_are_told(tmp_path: Path) -> None:
    labels = (*(f"label-{number:02}" for number in range(76)), "pending_top_up")
    path = written(tmp_path, "text,label\na,pending_topup\n")
    with refused("expected one of the 77 agreed labels; did you mean 'pending_top_up'") as caught:
        load(path, labels=labels)
    assert len(caught.value.message) < 300
    path = written(tmp_path, "text,label\na,zzz\n")
    with refused("expected one of the 77 agreed labels, for example 'label-00' or 'label-01' or 'label-02'$"):
        load(path, labels=labels)


def test_the_first_record_tells_a_wrong_file_and_no_more_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, "who,text,label\n1,a,lost\n2,b,nonsense\n")
    check_first_record(path, "text", "label", "who", LABELS)
    with refused("unknown label '1' in column 'who'"):
        check_first_record(path, "text", "who", None, LABELS)
    with refused("no column 'user'"):
        check_first_record(path, "text", "label", "user", LABELS)
    with refused("has no records"):
        check_first_record(written(tmp_path, "text,label\n"), "text", "label", None, LABELS)


def test_empty_texts_are_kept_and_counted(tmp_path: Path) -> None:
    data = load(written(tmp_path, 'text,label\na,lost\n,lost\n" ",no\n'))
    assert (len(data), data.empty_texts) == (3, 2)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("text,label\na,lost\nb\n", r"row 2 \(line 3\): 1 fields, expected 2"),
        ("text,label\na,lost,more\n", r"row 1 \(line 2\): 3 fields, expected 2"),
        ("text,label\nhello, you,lost\n", "3 fields, expected 2"),
        ('text,label\n"open,lost\nb,lost\n', r"line 3: not CSV: .*end of data"),
        ('text,label\n"a"b,lost\n', r"line 2: not CSV: .* expected after"),
        ('text,label\n"' + "x" * 200_000 + '",lost\n', "not CSV: field larger"),
    ],
)
def test_a_ragged_or_broken_row(tmp_path: Path, content: str, match: str) -> None:
    with refused(match) as caught:
        load(written(tmp_path, content))
    assert caught.value.hint
    assert str(tmp_path / "data.csv") in caught.value.message


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("{", "line 2: not valid JSON"),
        ('{"text": "a", "label": "lost"} {}', "line 2: not valid JSON"),
        ('["a", "lost"]', "line 2: a JSON list, expected an object"),
        ('"a"', "line 2: a JSON str, expected an object"),
        ('{"text": "a"}', "line 2: no field 'label'; fields found: 'text'"),
        ('{"text": null, "label": "lost"}', "line 2: the field 'text' is NoneType, expected text"),
        ('{"text": ["a"], "label": "lost"}', "line 2: the field 'text' is list, expected text"),
        ('{"text": "a", "label": 1.0}', "line 2: the field 'label' is float, expected text"),
        ('{"text": "a", "label": true}', "line 2: the field 'label' is bool, expected text"),
        ('{"text": "a", "text": "b", "label": "lost"}', "line 2: duplicate key 'text'"),
        ('{"text": "a", "label": "lost", "x": NaN}', "line 2: NaN is not a JSON number"),
        ('{"text": "\\ud800", "label": "lost"}', "line 2: .*surrogate"),
    ],
)
def test_a_bad_json_line(tmp_path: Path, line: str, match: str) -> None:
    path = written(tmp_path, '{"text": "a", "label": "lost"}\n' + line + "\n", "data.jsonl")
    with refused(match) as caught:
        load(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl"])
def test_another_encoding_names_the_line(tmp_path: Path, name: str) -> None:
    line = b"text,label\n" if name == "data.csv" else b'{"text": "a", "label": "lost"}\n'
    good = b"a,lost\n" if name == "data.csv" else line
    bad = "é,lost\n".encode("latin-1") if name == "data.csv" else '{"text": "é"}\n'.encode("latin-1")
    path = written(tmp_path, line + good * 5000 + bad + good * 5000, name)
    with refused(rf"{name}, line 5002: not UTF-8 text") as caught:
        load(path)
    assert "UTF-8" in (caught.value.hint or "")


def test_utf_16_is_refused(tmp_path: Path) -> None:
    with refused(r"data\.csv, line 1: not UTF-8 text"):
        load(written(tmp_path, "text,label\na,lost\n".encode("utf-16")))


# --- labels for a draft ------------------------------------------------------------------------------------------


def test_distinct_labels_are_sorted_and_need_no_text(tmp_path: Path) -> None:
    assert distinct_labels(written(tmp_path, "intent\nb\na\nb\n"), "intent") == ("a", "b")
    path = written(tmp_path, '{"label": 2}\n{"label": 10}\n{"label": "x"}\n', "data.jsonl")
    assert distinct_labels(path, "label") == ("10", "2", "x")
    with refused("has no column 'label'; columns found: 'intent'"):
        distinct_labels(tmp_path / "data.csv", "label")


# --- streaming and real data -------------------------------------------------------------------------------------


def test_the_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, b"text,label\n" + b"hello,lost\n" * 100_000)
    sizes: list[int] = []
    original = Path.open

    def watched(self: Path, mode: str = "r") -> Any:
        stream = original(self, mode)

        class Watched:
            def read(self, size: int) -> bytes:
                sizes.append(size)
                return stream.read(size)

            def __enter__(self) -> Watched:
                return self

            def __exit__(self, *_: object) -> None:
                stream.close()

        return Watched()

    monkeypatch.setattr(Path, "open", watched)
    assert len(load(path)) == 100_000
    assert max(sizes) <= 1 << 16
    assert len(sizes) > 10


@pytest.mark.skipif(not BANKING77.exists(), reason="shared data is not here")
def test_banking77_is_read() -> None:
    labels = distinct_labels(BANKING77 / "train.csv", "category")
    assert len(labels) == 77
    assert list(labels) == sorted(json.loads((BANKING77 / "categories.json").read_text()))
    data = load(BANKING77 / "train.csv", label_column="category", labels=labels)
    assert len(data) == 10_003
    assert data.texts[0] == "I am still waiting on my card?"
    assert labels[data.labels[0]] == "card_arrival"
