"""``mnist models`` and ``mnist compare``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnist.cli import display, options, results
from mnist.cli import model_options as choices
from mnist.cli.judging import Loader, load_data, training_data
from mnist.cli.model_options import ModelOptions
from mnist.cli.options import DataOptions
from mnist.cli.process import import_torch
from mnist.errors import MnistError

if TYPE_CHECKING:
    from torch import Tensor

    from mnist.datasets import Split
    from mnist.gate import Evaluation
    from mnist.storage.registry import Entry

MAX_DRAWN_IMAGES = 64


@click.command()
@choices.models_dir
@choices.reports_dir
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list with an object for each model.")
def models(models_dir: Path, reports_dir: Path, as_json: bool) -> None:
    """List the models, the newest first, with the verdict of the newest report on each.

    predict, export and demo use the first one whose verdict is "ship".
    """
    import_torch()
    from mnist.storage import registry

    entries = list(registry.entries(models_dir, reports_dir))
    if as_json:
        display.write_json([_describe(entry) for entry in entries])
    elif entries:
        results.show_models(entries)
    else:
        display.write(f"there is no model in {models_dir} (train one: make train, or mnist train)")


def _describe(entry: "Entry") -> dict[str, Any]:
    """Return the JSON object for a model; unknown values are None."""
    card, judgement = entry.card, entry.judgement
    return {
        "model": str(entry.path),
        "created": card.created if card else None,
        "recipe": card.describe_recipe() if card else None,
        "accuracy": card.measured.accuracy if card else None,
        "measured_on": card.measured.measured_on if card else None,
        "verdict": entry.decision,
        "policy": judgement.policy if judgement else None,
        "report": str(judgement.report.with_name("report.html")) if judgement else None,
        "commit": card.environment.commit if card else None,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "problem": entry.problem or None,
    }


@click.command()
@click.argument("first", type=options.FILE_OR_FOLDER)
@click.argument("second", type=options.FILE_OR_FOLDER)
@options.data(None, f"Images to measure on; {options.MODEL_DATASET}")
@choices.foreign_models
@options.device
@options.path("--output", "figures/differences.png", "PNG file to write: images on which the models differ.")
@options.path("--curves", "figures/learning_curves.png", "PNG file to write: learning curves of both models.")
@options.force
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(
    first: Path,
    second: Path,
    data_options: DataOptions,
    model_options: ModelOptions,
    device: str,
    output: Path,
    curves: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Compare the models FIRST and SECOND on the same images: accuracy, each digit, robustness, latency and size.

    A difference in accuracy has a 95 % confidence interval for paired data. The picture shows images for which the
    models predict different digits. A second picture overlays their learning curves.
    """
    for flag, path in (("--output", output), ("--curves", curves)):
        if path.suffix != ".png":
            raise MnistError(f"{flag} must end in .png, not {path}")
    if output.resolve() == curves.resolve():
        raise MnistError("--output and --curves must name different files")
    import_torch()
    from mnist import devices, drawings, gate, report
    from mnist.report import figures

    if not (force or as_json):
        drawings.check_replaceable(output)
        drawings.check_replaceable(curves)
    known = [name for path in (first, second) if (name := training_data(path, model_options)) != "auto"]
    dataset = load_data(data_options, known[-1] if known else "auto")
    loader = Loader(devices.select(device), model_options)
    old, new = loader.load(first, dataset), loader.load(second, dataset)
    evaluation = gate.evaluate(new, dataset, gate.choose_policy(new, dataset), old)
    differences = report.compare(evaluation)
    if as_json:
        display.write_json({"measured_on": dataset.test.description, "figures": differences})
        return
    results.show_differences(first, second, dataset.test.description, differences)
    if old.log and new.log:
        figures.draw_learning_curves({f"first: {first.name}": old.log, f"second: {second.name}": new.log}, curves)
        display.write(f"learning curves: {curves}")
    else:
        without = [str(path) for path, model in ((first, old), (second, new)) if not model.log]
        display.write(f"no learning curves: there is no training log of {' and '.join(without)}")
    if evaluation.comparison is None or not len(evaluation.comparison.labels):
        display.write("the predictions cannot be compared: a model violates its contract (see: mnist gate MODEL)")
        return
    differing = _draw_differences(evaluation, dataset.test, output)
    if differing:
        display.write(
            f"the models predict different digits for {differing:,} of {len(dataset.test):,} images: {output}"
        )
    else:
        display.write(f"the models predict the same digit for all {len(dataset.test):,} images")


def _best(probabilities: "Tensor", classes: "Sequence[str]") -> str:
    confidence, label = probabilities.max(0)
    return f"{classes[int(label)]} ({confidence:.0%})"


def _draw_differences(evaluation: "Evaluation", test: "Split", path: Path) -> int:
    """Draw some of the images for which the predictions differ; return the total number of such images."""
    from mnist import drawings
    from mnist.datasets import class_name

    assert evaluation.baseline is not None
    new, old = evaluation.measurement.logits.softmax(1), evaluation.baseline.measurement.logits.softmax(1)
    differing = (new.argmax(1) != old.argmax(1)).nonzero()[:, 0].tolist()
    inputs = []
    for index in differing[:MAX_DRAWN_IMAGES]:
        both = {"first": old[index], "second": new[index]}
        predictions = [f"{name}: {_best(probabilities, test.classes)}" for name, probabilities in both.items()]
        title = "\n".join([class_name(int(test.labels[index]), test.classes), *predictions])
        inputs.append((test.images[index, 0].numpy(), title))
    if inputs:
        drawings.draw_inputs(inputs, path)
    return len(differing)
