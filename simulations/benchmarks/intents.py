"""Public intent data for the utility benchmark, and how its records lie at sites: banking77 and clinc150.

- banking77 (Casanueva et al. 2020): 77 intents of bank customers, split with label skew, Dirichlet(0.5) (Hsu et al.
  2019).
- clinc150 (Larson et al. 2019): 150 intents in ten domains; each domain is a site, which is the hardest skew there is:
  no label occurs at two sites. Queries out of scope are left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.data import distinct_labels, load_records
from simulations.label_skew import dirichlet_assignment
from tacit.errors import ConfigError, DataError

DATA_VARIABLE = "TACIT_DATA"
#: beside the checkout; the data are no part of the project
DEFAULT_FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "data"
DIRICHLET_ALPHA = 0.5
_OUT_OF_SCOPE = "oos"
_FILES = {
    "banking77": ("banking77/train.csv", "banking77/test.csv"),
    "clinc150": ("clinc150/train.jsonl", "clinc150/test.jsonl"),
}
_SOURCES = {
    "banking77": "github.com/PolyAI-LDN/task-specific-datasets (CC-BY-4.0): train.csv and test.csv with the columns "
    "text and category",
    "clinc150": "github.com/clinc/oos-eval (CC-BY-3.0): train.jsonl and test.jsonl, one object a line with text, "
    "label and domain",
}

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Intents:
    """Labelled texts; labels are indices into ``labels``."""

    name: str
    labels: tuple[str, ...]
    train_texts: tuple[str, ...]
    train_labels: tuple[int, ...]
    test_texts: tuple[str, ...]
    test_labels: tuple[int, ...]
    #: of each training text; empty where the data have none
    domains: tuple[str, ...] = ()


def data_folder(chosen: Path | None) -> Path:
    """Return the folder that was chosen, else the one that ``TACIT_DATA`` names, else the one beside the checkout."""
    return chosen or Path(os.environ.get(DATA_VARIABLE) or DEFAULT_FOLDER)


def load_intents(name: str, folder: Path) -> Intents:
    """Read one of the two data sets.

    Raises:
        ConfigError: no such data set.
        DataError: a file is missing or is not what is expected.
    """
    if name not in _FILES:
        raise ConfigError(f"got data set {name!r}; expected one of {', '.join(_FILES)}")
    train, test = (folder / file for file in _FILES[name])
    for path in (train, test):
        if not path.is_file():
            raise DataError(
                f"{path} is not there; expected the public data set {name}",
                hint=f"get it from {_SOURCES[name]}; then name the folder above with --data or {DATA_VARIABLE}",
            )
    return _banking77(train, test) if name == "banking77" else _clinc150(train, test)


def split_over_sites(intents: Intents, sites: int, seed: int) -> Mapping[str, Rows]:
    """Return the rows of each site, ascending: every training row is at one site.

    Args:
        intents: with domains, a domain is a site and ``seed`` has no say; else labels are skewed.
        sites: how many; where there are domains, as many as these.
        seed: of the split.

    Raises:
        ConfigError: another number of sites than domains.
        DataError: a site would have no row.
    """
    if intents.domains:
        names = sorted(set(intents.domains))
        if sites != len(names):
            raise ConfigError(f"got {sites} sites; {intents.name} has {len(names)} domains, each of them a site")
        assignment = [names.index(domain) for domain in intents.domains]
    else:
        names = [f"site-{index:02d}" for index in range(sites)]
        by_name = [intents.labels[label] for label in intents.train_labels]
        assignment = dirichlet_assignment(by_name, sites, DIRICHLET_ALPHA, seed)
    where = np.asarray(assignment)
    rows = {name.replace("_", "-"): np.flatnonzero(where == index) for index, name in enumerate(names)}
    empty = [name for name, found in rows.items() if not len(found)]
    if empty:
        raise DataError(f"{', '.join(empty)} would have no row", hint="use fewer sites or another seed")
    return rows


def _banking77(train: Path, test: Path) -> Intents:
    labels = distinct_labels(train, "category")
    read = [load_records(path, "text", "category", labels, profile=None) for path in (train, test)]
    return Intents("banking77", labels, read[0].texts, read[0].labels, read[1].texts, read[1].labels)


def _clinc150(train: Path, test: Path) -> Intents:
    rows = {path: _in_scope(path) for path in (train, test)}
    labels = tuple(sorted({row["label"] for row in rows[train]}))
    index = {label: position for position, label in enumerate(labels)}
    unknown = sorted({row["label"] for row in rows[test]} - set(labels))
    if unknown:
        raise DataError(f"{test} has labels that {train} has not: {', '.join(unknown[:5])}")
    texts = {path: tuple(row["text"] for row in found) for path, found in rows.items()}
    targets = {path: tuple(index[row["label"]] for row in found) for path, found in rows.items()}
    domains = tuple(row["domain"] for row in rows[train])
    return Intents("clinc150", labels, texts[train], targets[train], texts[test], targets[test], domains)


def _in_scope(path: Path) -> list[dict[str, str]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = {key: str(json.loads(line)[key]) for key in ("text", "label", "domain")}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: expected an object with text, label and domain") from error
        if row["domain"] != _OUT_OF_SCOPE:
            rows.append(row)
    return rows
