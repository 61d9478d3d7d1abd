"""``mnist data``, ``mnist augment`` and ``mnist verify``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnist import recipe_files, recipes
from mnist.cli import display, options, results, tables
from mnist.cli.options import DataOptions
from mnist.cli.process import BAD_INPUT, BLOCKED, import_torch
from mnist.errors import MnistError
from mnist.shapes import CLASSES

if TYPE_CHECKING:
    from mnist.storage.integrity import Finding


@click.command()
@options.data("auto", options.AUTO_DATASET)
def data(data_options: DataOptions) -> None:
    """Download and verify the data; files that exist and are intact are not downloaded again."""
    import_torch()
    loaded = data_options.load()
    rows = tables.table("class", *(split.description for split in (loaded.train, loaded.test)))
    counts = [split.labels.bincount(minlength=CLASSES).tolist() for split in (loaded.train, loaded.test)]
    for name, *row in zip(loaded.train.classes, *counts, strict=True):
        rows.add_text_row(name, *(f"{count:,}" for count in row))
    tables.show(rows)
    display.write(f"SHA-256 of all images and labels: {loaded.fingerprint}")


@click.command()
@options.recipe
@options.recipe_fields("rotation", "translation", "scaling", "shear", "randomization", "seed")
@options.data("auto", options.AUTO_DATASET)
@click.option("--columns", type=click.IntRange(5, 20), default=10, show_default=True, help="Number of original images.")
@click.option(
    "--draws", type=click.IntRange(1, 20), default=4, show_default=True, help="Augmented versions of each image."
)
@options.path("--output", "figures/augmentation_samples.png", "PNG file to write.")
@options.force
def augment(
    recipe: str | None, data_options: DataOptions, columns: int, draws: int, output: Path, force: bool, **overrides: Any
) -> None:
    """Draw a picture of original images and, below each, random augmented versions like those in training.

    An existing file is replaced only if this program drew it.
    """
    chosen = recipe_files.get(recipe or recipes.DEFAULT, **options.given(overrides))
    if output.suffix != ".png":
        raise MnistError(f"--output must end in .png, not {output}")
    import_torch()
    from mnist import drawings
    from mnist.report import figures

    if not force:
        drawings.check_replaceable(output)
    figures.draw_augmented_samples(data_options.load().train, chosen, columns, draws, output)
    display.write(output)


@click.command()
@click.argument("paths", type=options.FILE_OR_FOLDER, nargs=-1, metavar="[PATH]...")
@options.own_architecture(exposed=False)
def verify(paths: tuple[Path, ...]) -> int:
    """Check that models, checkpoints and data are complete and undamaged.

    PATH is a file or a folder; by default, the folders models, checkpoints and data are checked, if they exist. The
    exit code is 1 if a file is damaged, incomplete or unreadable. Otherwise it is 2 if a PATH has no file to check, or
    if a model cannot be checked because its network is your own and --architecture does not name it.
    """
    chosen = paths or [folder for name in ("models", "checkpoints", "data") if (folder := Path(name)).is_dir()]
    import_torch()
    checked = [_check(path) for path in chosen]
    findings = [finding for found, _ in checked for finding in found]
    if findings:
        results.show_findings(findings)
    elif not paths:
        display.write(
            "there is nothing to verify: no model, checkpoint or file of MNIST in the folders models, checkpoints and "
            "data"
        )
    problems = [problem for _, problem in checked if problem] if paths else []
    for problem in problems:
        display.write(f"error: {problem}", err=True)
    damaged = [finding for finding in findings if finding.problem and finding.checked]
    unchecked = [finding for finding in findings if not finding.checked]
    return BLOCKED if damaged else BAD_INPUT if problems or unchecked else 0


def _check(path: Path) -> "tuple[list[Finding], str]":
    """Check a path; return the findings and, if there are none, an error message."""
    from mnist.storage import integrity

    try:
        findings = list(integrity.check(path))
    except integrity.UnknownFileError as error:
        return [], str(error)
    return findings, "" if findings else f"there is nothing to verify in {path}: no model, checkpoint or file of MNIST"
