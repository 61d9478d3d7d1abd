"""``mnist recipes``."""

import dataclasses

import click

from mnist import recipe_files
from mnist.cli import display, tables
from mnist.recipes import DEFAULT, RECIPES


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with an object for each recipe.")
def recipes(as_json: bool) -> None:
    """List the recipes with their network, epochs, and accuracy on MNIST's test set: mean and range over seeds.

    A recipe of your own is a TOML file with a line `base = "standard"` and the values that differ; pass its path to
    `mnist train --recipe`.
    """
    measured = recipe_files.results()
    if as_json:
        described = [
            dataclasses.asdict(recipe) | {"result": dataclasses.asdict(measured[name]) if name in measured else None}
            for name, recipe in RECIPES.items()
        ]
        display.write_json(described)
        return
    rows = tables.TextTable()
    rows.add_text_column("recipe", whole=True)
    for column in ("epochs", "parameters", "accuracy"):
        rows.add_text_column(column, justify="right", whole=True)
    rows.add_text_column("range (seeds)", least=20)
    rows.add_text_column("worst digit", justify="right", least=11)
    rows.add_text_column("network", least=12)
    for name, recipe in RECIPES.items():
        result = measured.get(name)
        figures = ("", "not measured", "", "")
        if result:
            spread = f"{result.lowest:.2%} to {result.highest:.2%} ({result.seeds})" if result.seeds > 1 else "(1)"
            figures = (f"{result.parameters:,}", f"{result.accuracy:.2%}", spread, f"{result.worst_digit:.2%}")
        shown = f"{name} (default)" if name == DEFAULT else name
        rows.add_text_row(shown, f"{recipe.epochs:g}", *figures, recipe.architecture)
    tables.show(rows)
