"""Public intent data and their splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.benchmarks.intents import DATA_VARIABLE, data_folder, load_intents, split_over_sites
from tacit.errors import ConfigError, DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize("sites", [2, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_skewed_split_is_a_partition(intent_folder: Path, sites: int, seed: int) -> None:
    intents = load_intents("banking77", intent_folder)
    split = split_over_sites(intents, sites, seed)
    assert len(split) == sites
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(300))
    assert all(np.array_equal(rows, np.sort(rows)) for rows in split.values())
    again = split_over_sites(intents, sites, seed)
    assert all(np.array_equal(again[site], rows) for site, rows in split.items())
    other = split_over_sites(intents, sites, seed + 10)
    assert any(not np.array_equal(other[site], rows) for site, rows in split.items())
    # label skew: the shares of a label differ from site to site
    labels = np.asarray(intents.train_labels)
    shares = np.array([np.bincount(labels[rows], minlength=3) / len(rows) for rows in split.values()])
    assert shares.std(axis=0).max() > 0.1


def test_a_domain_is_a_site_and_what_is_out_of_scope_is_left_out(intent_folder: Path) -> None:
    intents = load_intents("clinc150", intent_folder)
    assert set(intents.labels) == {"animal", "fruit", "silver"}
    split = split_over_sites(intents, 2, 5)
    assert list(split) == ["living-things", "metals"]
    for site, rows in split.items():
        assert {intents.domains[row].replace("_", "-") for row in rows} == {site}
    assert sum(map(len, split.values())) == len(intents.train_texts) < 300
    with pytest.raises(ConfigError, match="2 domains, each of them a site"):
        split_over_sites(intents, 3, 0)


def test_missing_data_say_what_is_missing_and_where_to_get_it(intent_folder: Path) -> None:
    (intent_folder / "banking77" / "test.csv").unlink()
    with pytest.raises(DataError, match=r"test\.csv is not there; expected the public data set banking77") as caught:
        load_intents("banking77", intent_folder)
    assert "PolyAI" in caught.value.hint
    assert "--data" in caught.value.hint
    with pytest.raises(ConfigError, match="expected one of banking77, clinc150"):
        load_intents("imdb", intent_folder)


def test_a_line_that_is_no_record_is_named(intent_folder: Path) -> None:
    (intent_folder / "clinc150" / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: expected an object with text, label and domain"):
        load_intents("clinc150", intent_folder)


def test_a_label_that_was_never_trained_is_refused(intent_folder: Path) -> None:
    with (intent_folder / "clinc150" / "test.jsonl").open("a") as stream:
        stream.write('{"text": "a", "label": "new", "domain": "metals"}\n')
    with pytest.raises(DataError, match=r"has labels that .* has not: new"):
        load_intents("clinc150", intent_folder)


def test_the_folder_is_the_chosen_one_then_the_variable_then_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "named"))
    assert data_folder(tmp_path) == tmp_path
    assert data_folder(None) == tmp_path / "named"
    monkeypatch.delenv(DATA_VARIABLE)
    assert data_folder(None).parts[-2:] == ("shared", "data")


@pytest.mark.skipif(not SHARED.exists(), reason="shared data is not here")
def test_the_real_data_have_the_published_sizes() -> None:
    banking, clinc = (load_intents(name, SHARED) for name in ("banking77", "clinc150"))
    assert (len(banking.labels), len(banking.train_texts), len(banking.test_texts)) == (77, 10_003, 3_080)
    assert (len(clinc.labels), len(clinc.train_texts), len(clinc.test_texts)) == (150, 15_000, 4_500)
    assert {len(rows) for rows in split_over_sites(clinc, 10, 0).values()} == {1500}
