"""``tacit data``: preparing data for experiments."""

from __future__ import annotations

from pathlib import Path

import typer

app = typer.Typer(
    help="Prepare data for experiments.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)

_SPLIT_EPILOG = """
\b
Examples:
  tacit data split train.csv --label-column category \\
      --site alpha --site beta --site gamma --out data

\b
All rows of a user at one site:
  tacit data split train.csv --key-column customer \\
      --site alpha --site beta --out data
"""


@app.callback()
def _group() -> None:
    """Prepare data for experiments."""


@app.command(epilog=_SPLIT_EPILOG)
def split(
    source: Path = typer.Argument(..., help="CSV file."),
    site: list[str] = typer.Option(..., help="A site's name; repeat."),
    label_column: str = typer.Option("label", help="Column with the label."),
    key_column: str | None = typer.Option(
        None, help="Column that says whose a row is: all rows of a user go to one site, as privacy unit user needs."
    ),
    alpha: float = typer.Option(0.5, help="Dirichlet concentration; small means skewed."),
    seed: int = typer.Option(0, help="Of the split."),
    out: Path = typer.Option(..., help="Folder for one CSV file a site."),
) -> None:
    """Split the CSV file SOURCE over sites, with label skew, to play a consortium on one machine."""
    from simulations.label_skew import split_csv

    counts = split_csv(source, label_column, site, alpha=alpha, seed=seed, out=out, key_column=key_column)
    for name, rows in counts.items():
        typer.echo(f"{out / name}.csv: {rows} rows")
