"""Load, judge and report a model, for ``mnist gate``, ``train`` and ``compare``."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist import files
from mnist.cli import display, results
from mnist.cli.model_options import GateOptions, ModelOptions
from mnist.cli.options import DataOptions
from mnist.cli.process import BAD_INPUT, BLOCKED
from mnist.errors import MnistError

if TYPE_CHECKING:
    import torch

    from mnist.datasets import Dataset
    from mnist.gate import Candidate, Evaluation
    from mnist.storage.artifacts import Artifact


# Printed if a model is blocked.
BLOCKED_HINT = "train again with another seed, another recipe or more epochs, or choose other bounds (--policy)"


def check_gate_options(gate_options: GateOptions, model_options: ModelOptions) -> None:
    """Check the policy and the baseline before any download or training.

    Raises:
        MnistError: if the policy or the baseline is missing or invalid.
    """
    from mnist import gate as gates

    gates.load_policy(gate_options.policy or gates.POLICY)
    if gate_options.baseline:
        training_data(gate_options.baseline, model_options)


@dataclass(frozen=True)
class Judged:
    """The verdicts on a model, and its report."""

    evaluation: "Evaluation"
    content: dict[str, Any]  # content of report.json
    page: Path | None  # path of report.html; None if the report could not be written
    problem: str  # the reason why the report could not be written; empty if it was written

    @property
    def code(self) -> int:
        """The exit code."""
        from mnist import gate as gates

        return BLOCKED if gates.blocked(self.evaluation.verdicts) else BAD_INPUT if self.page is None else 0

    def warn(self, dataset: "Dataset") -> None:
        """Warn if the model may have been trained on the test images, or if the baseline shows nothing about it."""
        seen, reason = self.evaluation.candidate.possibly_seen(dataset)
        if seen or seen is None:
            images = "the images" if seen is None else f"{seen:,} of the {len(dataset.test):,} images"
            display.notify(f"WARNING: the model may have been trained on {images} that it is measured on: {reason}")
        if baseline := self.evaluation.baseline:
            if baseline.candidate.sha256 == self.evaluation.candidate.sha256:
                display.notify("WARNING: the baseline is the same model, so the comparison shows nothing")
            if violations := baseline.measurement.contract_violations:
                display.notify(f"WARNING: the model cannot be compared, because of the baseline: {violations[0]}")

    def show(self, dataset: "Dataset", hint: str = BLOCKED_HINT) -> None:
        """Print the verdicts, and annotate them in GitHub Actions.

        Args:
            dataset: the data that the model was measured on.
            hint: advice that is printed if the model is blocked.
        """
        from mnist import report

        results.show_verdicts(self.evaluation)
        if self.code == BLOCKED:
            display.write(f"what to do: {f'see {self.page}; ' if self.page else ''}{hint}")
        elif self.page:
            display.write(f"report: {self.page}")
        results.annotate(self.evaluation.verdicts, summary=lambda: report.markdown(self.content, dataset.test))

    def finish(self) -> int:
        """Return the exit code; first print an error if the report could not be written."""
        if self.problem:
            display.write(f"error: {self.problem}", err=True)
        return self.code


@dataclass(frozen=True)
class Loader:
    """Loads models with the options that the user chose."""

    device: "torch.device"
    model_options: ModelOptions = field(default_factory=ModelOptions)

    def load(self, path: Path, dataset: "Dataset") -> "Candidate":
        """Load a model, and print notices about how it was read.

        Raises:
            MnistError: if the model cannot be loaded, or was trained on classes other than those of the data set.
        """
        from mnist.gate import candidates

        options = self.model_options
        loaded = candidates.load(path, dataset, architecture=options.architecture, input_range=options.input_range)
        check_classes(loaded, dataset)
        for notice in (*_ignored_options(options, loaded), *loaded.notices):
            display.notify(notice)
        loaded.model.to(self.device)
        return loaded

    def load_baseline(self, gate_options: GateOptions, dataset: "Dataset") -> "Candidate | None":
        """Load the baseline, or return None if there is none. ``--input-range`` does not apply to it."""
        if gate_options.baseline is None:
            return None
        options = dataclasses.replace(self.model_options, input_range="auto")
        return dataclasses.replace(self, model_options=options).load(gate_options.baseline, dataset)


def _ignored_options(options: ModelOptions, loaded: "Candidate") -> Iterator[str]:
    """Yield a notice for each option that does not apply to a model; it may be meant for another one."""
    is_onnx = loaded.architecture is None
    if options.architecture not in (None, loaded.architecture):
        actual = "the model is an ONNX file" if is_onnx else f"the model's network is {loaded.architecture}"
        yield f"{loaded.path}: --architecture {options.architecture} is ignored, because {actual}"
    if options.input_range != "auto" and not is_onnx:
        yield f"{loaded.path}: --input-range {options.input_range} is ignored, because the model is not an ONNX file"


def judge(
    candidate: "Candidate",
    dataset: "Dataset",
    gate_options: GateOptions,
    baseline: "Candidate | Evaluation | None",
) -> Judged:
    """Judge a model and write its report. If writing fails, the result contains the verdicts and the problem."""
    from mnist import gate as gates
    from mnist import report

    rules = gates.choose_policy(candidate, dataset, gate_options.policy or gates.POLICY)
    evaluation = gates.evaluate(candidate, dataset, rules, baseline)
    content = report.build(evaluation, dataset.test)
    page, problem = None, ""
    try:
        page = report.write(content, dataset.test, evaluation.measurement, gate_options.reports_dir)
    except OSError as error:
        problem = f"the report could not be written: {files.explain(error)}"
    for notice in rules.notices:
        display.notify(notice)
    return Judged(evaluation, content, page, problem)


# ---- Data to measure a model on --------------------------------------------------------------------------------------


def training_data(path: Path, model_options: ModelOptions) -> str:
    """Return the name of the data set that a model was trained on, or ``auto`` if it is unknown.

    Raises:
        MnistError: if the file is missing, or is a damaged weights file.
    """
    from mnist.storage import artifacts

    if not files.is_onnx(path):
        return data_of(artifacts.load(path, architecture=model_options.architecture))
    if not path.exists():
        raise MnistError(f"there is no model at {path}")
    return "auto"


def load_data(data_options: DataOptions, of_model: str) -> "Dataset":
    """Load the data set to measure on: the user's choice, or by default the one that the model was trained on."""
    from mnist import datasets

    dataset = data_options.load(of_model)
    if data_options.name is None and of_model not in ("auto", *datasets.DATASET_NAMES):
        display.notify(
            f"WARNING: measured on {of_model}, the folder named on the model's card (choose another with --dataset)"
        )
    return dataset


def data_of(artifact: "Artifact") -> str:
    """Return the name of the data set that weights were trained on, or ``auto`` if they have no model card."""
    return artifact.card.dataset.name if artifact.card else "auto"


def check_classes(model: "Candidate", dataset: "Dataset") -> None:
    """Check that a model was trained on the classes of a data set.

    Raises:
        MnistError: if the class names differ.
    """
    if model.classes != dataset.test.classes:
        known, shown = (", ".join(classes) for classes in (model.classes, dataset.test.classes))
        raise MnistError(f"{model.path} was trained on the classes {known}, but {dataset.name} has the classes {shown}")
