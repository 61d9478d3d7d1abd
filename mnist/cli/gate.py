"""``mnist gate``, and the judgement at the end of ``mnist train``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist import files
from mnist.cli import display, options
from mnist.cli.options import DataOptions, GateOptions
from mnist.cli.process import BAD_INPUT, BLOCKED, import_torch
from mnist.errors import MnistError

if TYPE_CHECKING:
    from mnist.datasets import Dataset
    from mnist.storage.artifacts import Artifact


@click.command()
@options.model
@options.data(None, f"Images to measure on; {options.MODEL_DATASET}")
@options.models_dir
@options.device
@options.gate
def gate(
    model: Path | None, data_options: DataOptions, models_dir: Path, device: str, gate_options: GateOptions
) -> int:
    """Measure MODEL (default: the newest) on images it was not trained on, and judge every criterion.

    The exit code is 0 if the model may ship and 1 if it must not. The report is written as report.html for people and
    report.json for programs. In GitHub Actions, the verdicts are added to the job summary, and those that do not
    pass are annotated.
    """
    import_torch()
    from mnist.storage import artifacts

    artifact = artifacts.load(model or artifacts.require_newest(models_dir))
    files.check_writable(gate_options.reports_dir)
    baseline = check_gate_options(gate_options)
    return judge(artifact, data_options.load(trained_on(artifact)), device, gate_options, baseline)


def check_gate_options(gate_options: GateOptions) -> "Artifact | None":
    """Read the policy and the baseline, so that errors in them are reported before any download or training.

    Returns:
        The baseline, or None if there is none.

    Raises:
        MnistError: if one of them cannot be read.
    """
    from mnist import gate as gates
    from mnist.storage import artifacts

    gates.load_policy(gate_options.policy or gates.POLICY)
    return artifacts.load(gate_options.baseline) if gate_options.baseline else None


def judge(
    artifact: "Artifact", dataset: "Dataset", device: str, gate_options: GateOptions, baseline: "Artifact | None"
) -> int:
    """Evaluate a model, write the report, show the verdicts, and return the exit code."""
    from mnist import devices, report
    from mnist import gate as gates

    target = devices.select(device)
    for each in filter(None, (artifact, baseline)):
        check_classes(each, dataset)
        each.model.to(target)
        for notice in each.notices:
            display.notify(notice)
        if each.card is None:
            display.notify(
                f"WARNING: {each.path} has no model card: it is assumed to be trained on MNIST's training images"
            )
    rules = gates.choose_policy(artifact, dataset, gate_options.policy or gates.POLICY)
    for notice in rules.notices:
        display.notify(notice)
    evaluation = gates.evaluate(artifact, dataset, rules, baseline)
    if seen := evaluation.measurement.possibly_seen:
        display.notify(
            f"WARNING: the model may have been trained on {seen:,} of the {len(dataset.test):,} images that it is "
            f"measured on: {artifact.possibly_seen(dataset)[1]}"
        )
    content = report.build(evaluation, dataset.test)
    folder = gate_options.reports_dir / artifact.path.stem
    code = BLOCKED if gates.blocked(evaluation.verdicts) else 0
    try:
        outcome = f"report: {report.write(content, dataset.test, evaluation.measurement, folder)}"
    except OSError as error:  # the verdicts must still be shown
        code = code or BAD_INPUT
        outcome = f"error: the report could not be written: {files.explain(error)}"
    display.show_verdicts(evaluation)
    display.write(outcome, err=outcome.startswith("error"))
    display.annotate(evaluation.verdicts, summary=lambda: report.markdown(content, dataset.test))
    return code


def trained_on(artifact: "Artifact") -> str:
    """Return the name of the data set that a model was trained on; MNIST if it has no card."""
    return artifact.card.dataset.name if artifact.card else "mnist"


def check_classes(artifact: "Artifact", dataset: "Dataset") -> None:
    """Check that a model knows the classes of a data set.

    Raises:
        MnistError: if the names differ.
    """
    if artifact.classes != dataset.test.classes:
        known, shown = (", ".join(classes) for classes in (artifact.classes, dataset.test.classes))
        raise MnistError(f"{artifact.path} knows the classes {known}, but those of {dataset.name} are {shown}")
