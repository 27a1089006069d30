"""Split one labelled file over sites with label skew, for experiments (Hsu et al. 2019, section 3).

For each label, the shares of the sites are drawn from a symmetric Dirichlet distribution: a small ``alpha`` gives
each site its own mix of labels. This is data preparation, not privacy: it is seeded.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from client.data import distinct_labels
from tacit.errors import ConfigError, DataError


def dirichlet_assignment(labels: Sequence[str], sites: int, alpha: float, seed: int) -> list[int]:
    """Return the site of each row.

    Args:
        labels: of each row.
        sites: how many sites.
        alpha: of the Dirichlet distribution, above 0; large values give every site the same mix.
        seed: of the split.
    """
    generator = np.random.default_rng(seed)
    assignment = [0] * len(labels)
    rows_of: dict[str, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    for label in sorted(rows_of):
        rows = generator.permutation(rows_of[label])
        shares = generator.dirichlet([alpha] * sites)
        bounds = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(int)
        for site, part in enumerate(np.split(rows, bounds)):
            for row in part:
                assignment[int(row)] = site
    return assignment


def assignment_by_user(labels: Sequence[str], keys: Sequence[str], sites: int, alpha: float, seed: int) -> list[int]:
    """Return the site of each row when all rows of one user go to one site.

    Users are split as :func:`dirichlet_assignment` splits rows, each by its most frequent label (the first in sorted
    order of those that are equally frequent).

    Args:
        labels: of each row.
        keys: of each row, whose it is.
        sites: how many sites.
        alpha: of the Dirichlet distribution.
        seed: of the split.
    """
    labels_of: dict[str, Counter[str]] = {}
    for label, key in zip(labels, keys, strict=True):
        labels_of.setdefault(key, Counter())[label] += 1
    usual = [min(counts, key=lambda label: (-counts[label], label)) for counts in labels_of.values()]
    site_of = dict(zip(labels_of, dirichlet_assignment(usual, sites, alpha, seed), strict=True))
    return [site_of[key] for key in keys]


def split_csv(
    source: Path,
    label_column: str,
    sites: Sequence[str],
    *,
    alpha: float,
    seed: int,
    out: Path,
    key_column: str | None = None,
) -> dict[str, int]:
    """Write ``out/SITE.csv`` for each site and return how many rows each got.

    With a ``key_column`` all rows of one user go to one site, as unit user needs.

    Raises:
        DataError: the source cannot be read, has no such column, an empty key, or a site would get no row.
        ConfigError: fewer than two sites, a repeated one, a bad alpha, or a file that exists already.
    """
    if len(set(sites)) != len(sites) or len(sites) < 2:
        raise ConfigError(
            f"got sites {', '.join(sites)}; expected two or more different names", hint="give --site once for each site"
        )
    if not alpha > 0:
        raise ConfigError(f"got alpha {alpha}; expected a number above 0", hint="0.5 skews, 100 hardly does")
    distinct_labels(source, label_column)  # the loader's own errors for a missing file or column
    with source.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        columns, rows = list(reader.fieldnames or ()), list(reader)
    labels = [row[label_column] for row in rows]
    if key_column is None:
        assignment = dirichlet_assignment(labels, len(sites), alpha, seed)
    else:
        distinct_labels(source, key_column)
        keys = [row[key_column] for row in rows]
        for number, key in enumerate(keys, start=1):
            if not key.strip():
                raise DataError(
                    f"{source}, row {number}: the key column {key_column!r} is empty, expected whose row it is",
                    hint="fill in the key, or leave the row out",
                )
        assignment = assignment_by_user(labels, keys, len(sites), alpha, seed)
    counts = {site: assignment.count(index) for index, site in enumerate(sites)}
    if min(counts.values()) == 0:
        raise DataError(f"a site would get no row: {counts}", hint="use a larger alpha or another seed")
    paths = [out / f"{site}.csv" for site in sites]
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} exists already", hint="choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(paths):
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(row for row, site in zip(rows, assignment, strict=True) if site == index)
    return counts
