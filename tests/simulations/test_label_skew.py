"""Splitting a labelled file over sites."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from simulations.label_skew import assignment_by_user, dirichlet_assignment, split_csv
from tacit.errors import ConfigError, DataError

LABELS = ["a", "b", "c", "d"] * 250


def skew(assignment: list[int], sites: int) -> float:
    """The largest share one site holds of one label, averaged over labels."""
    counts = Counter(zip(LABELS, assignment, strict=True))
    return sum(max(counts[label, site] for site in range(sites)) / 250 for label in "abcd") / 4


def test_every_row_goes_to_one_site_and_the_seed_decides() -> None:
    first = dirichlet_assignment(LABELS, 3, 0.5, 1)
    assert len(first) == len(LABELS)
    assert set(first) <= {0, 1, 2}
    assert first == dirichlet_assignment(LABELS, 3, 0.5, 1)
    assert first != dirichlet_assignment(LABELS, 3, 0.5, 2)


def test_a_small_alpha_skews_and_a_large_one_does_not() -> None:
    assert skew(dirichlet_assignment(LABELS, 3, 0.05, 1), 3) > 0.8
    assert skew(dirichlet_assignment(LABELS, 3, 1000.0, 1), 3) < 0.45


def test_all_rows_of_a_user_go_to_one_site() -> None:
    keys = [f"u{index // 5 if index < 900 else 0}" for index in range(len(LABELS))]
    assignment = assignment_by_user(LABELS, keys, 3, 0.5, 1)
    sites_of: dict[str, set[int]] = {}
    for key, site in zip(keys, assignment, strict=True):
        sites_of.setdefault(key, set()).add(site)
    assert {len(sites) for sites in sites_of.values()} == {1}
    assert set(assignment) == {0, 1, 2}
    assert assignment == assignment_by_user(LABELS, keys, 3, 0.5, 1)
    split = dirichlet_assignment(LABELS, 3, 0.5, 1)
    assert any(len({split[row] for row in range(len(LABELS)) if keys[row] == key}) > 1 for key in set(keys))


def test_users_of_one_row_are_split_as_rows_are_and_others_by_their_usual_label() -> None:
    assert assignment_by_user(LABELS, [str(row) for row in range(1000)], 3, 0.5, 1) == dirichlet_assignment(
        LABELS, 3, 0.5, 1
    )
    labels, keys = ["b", "a", "b", "a", "c", "c", "b"], ["x", "x", "x", "y", "y", "y", "z"]
    by_user = dirichlet_assignment(["b", "c", "b"], 2, 0.5, 4)
    expected = [by_user["xyz".index(key)] for key in keys]
    assert assignment_by_user(labels, keys, 2, 0.5, 4) == expected


def test_a_file_is_split_by_its_key_column(tmp_path: Path) -> None:
    path, out = tmp_path / "all.csv", tmp_path / "out"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["who", "text", "label"])
        writer.writerows([f"u{index % 60}", f"text {index}", label] for index, label in enumerate(LABELS))
    split_csv(path, "label", ("x", "y"), alpha=1.0, seed=3, out=out, key_column="who")
    users = []
    for site in ("x", "y"):
        with (out / f"{site}.csv").open(newline="", encoding="utf-8") as stream:
            users.append({row["who"] for row in csv.DictReader(stream)})
    assert not users[0] & users[1]
    assert len(users[0] | users[1]) == 60
    with pytest.raises(DataError, match="no column 'customer'"):
        split_csv(path, "label", ("x", "y"), alpha=1.0, seed=3, out=tmp_path / "other", key_column="customer")
    path.write_text(path.read_text().replace("\nu7,", "\n ,", 1))
    with pytest.raises(DataError, match="row 8: the key column 'who' is empty"):
        split_csv(path, "label", ("x", "y"), alpha=1.0, seed=3, out=tmp_path / "other", key_column="who")


def source(tmp_path: Path) -> Path:
    path = tmp_path / "all.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([f'row "{index}", with a comma', label] for index, label in enumerate(LABELS))
    return path


def test_the_files_together_are_the_source(tmp_path: Path) -> None:
    counts = split_csv(source(tmp_path), "label", ("x", "y"), alpha=0.5, seed=3, out=tmp_path / "out")
    texts: list[str] = []
    for site, count in counts.items():
        with (tmp_path / "out" / f"{site}.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == count
        texts.extend(row["text"] for row in rows)
    assert sorted(texts) == sorted(f'row "{index}", with a comma' for index in range(len(LABELS)))


def test_mistakes_are_clear_and_nothing_is_overwritten(tmp_path: Path) -> None:
    path, out = source(tmp_path), tmp_path / "out"
    with pytest.raises(DataError, match="intent"):
        split_csv(path, "intent", ("x", "y"), alpha=0.5, seed=3, out=out)
    with pytest.raises(ConfigError, match="different") as caught:
        split_csv(path, "label", ("x", "x"), alpha=0.5, seed=3, out=out)
    assert caught.value.hint
    with pytest.raises(ConfigError, match="alpha") as caught:
        split_csv(path, "label", ("x", "y"), alpha=0.0, seed=3, out=out)
    assert caught.value.hint
    split_csv(path, "label", ("x", "y"), alpha=0.5, seed=3, out=out)
    with pytest.raises(ConfigError, match="exists already"):
        split_csv(path, "label", ("x", "y"), alpha=0.5, seed=4, out=out)
