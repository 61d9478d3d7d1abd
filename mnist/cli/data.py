"""``mnist data``, ``mnist augment`` and ``mnist verify``."""

from pathlib import Path
from typing import Any

import click

from mnist import recipes
from mnist.cli import display, options
from mnist.cli.options import DataOptions
from mnist.cli.process import BLOCKED, import_torch
from mnist.errors import MnistError
from mnist.shapes import CLASSES


@click.command()
@options.data("auto", options.AUTO_DATASET)
def data(data_options: DataOptions) -> None:
    """Download and verify the data; files that exist and are intact are not downloaded again."""
    import_torch()
    loaded = data_options.load()
    rows = display.table("class", *(split.description for split in (loaded.train, loaded.test)))
    counts = [split.labels.bincount(minlength=CLASSES).tolist() for split in (loaded.train, loaded.test)]
    for name, *row in zip(loaded.train.classes, *counts, strict=True):
        rows.add_text_row(name, *(f"{count:,}" for count in row))
    display.out.print(rows)
    display.write(f"SHA-256 of all images and labels: {loaded.fingerprint}")


@click.command()
@options.recipe
@options.recipe_fields("rotation", "translation", "scaling", "seed")
@options.data("auto", options.AUTO_DATASET)
@click.option("--columns", type=click.IntRange(5, 20), default=10, show_default=True, help="Number of original images.")
@click.option("--draws", type=click.IntRange(1, 20), default=4, show_default=True, help="Versions of each original.")
@options.path("--output", "figures/augmentation_samples.png", "PNG file to write.")
def augment(
    recipe: str | None, data_options: DataOptions, columns: int, draws: int, output: Path, **overrides: Any
) -> None:
    """Draw a picture of original images and, below each, random augmented versions like those in training."""
    chosen = recipes.get(recipe or recipes.DEFAULT, **options.given(overrides))
    if output.suffix != ".png":
        raise MnistError(f"--output must end in .png, not {output}")
    import_torch()
    from mnist.report import figures

    figures.draw_augmented_samples(data_options.load().train, chosen, columns, draws, output)
    display.write(output)


@click.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, metavar="[PATH]...")
def verify(paths: tuple[Path, ...]) -> int:
    """Check that models, checkpoints and data are complete and undamaged.

    PATH is a file or a folder; by default, the folders models, checkpoints and data are checked, if they exist. The
    exit code is 1 if a file is damaged or incomplete, or cannot be checked.
    """
    chosen = paths or [folder for name in ("models", "checkpoints", "data") if (folder := Path(name)).is_dir()]
    import_torch()
    from mnist.storage import integrity

    findings = [finding for path in chosen for finding in integrity.check(path)]
    display.show_findings(findings)
    return BLOCKED if any(finding.problem for finding in findings) else 0
