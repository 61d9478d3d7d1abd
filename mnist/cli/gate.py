"""``mnist gate``."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnist import files
from mnist.cli import display, options, results
from mnist.cli import model_options as choices
from mnist.cli.judging import Loader, check_gate_options, judge, load_data, training_data
from mnist.cli.model_options import GateOptions, ModelOptions
from mnist.cli.options import DataOptions
from mnist.cli.process import BAD_INPUT, BLOCKED, import_torch
from mnist.errors import MnistError, first_line

if TYPE_CHECKING:
    from mnist.datasets import Dataset
    from mnist.gate import Candidate, Evaluation


@click.command()
@click.argument("models", type=options.FILE_OR_FOLDER, nargs=-1, metavar="[MODEL]...")
@options.data(None, f"Images to measure on; {options.MODEL_DATASET}")
@choices.foreign_models
@choices.models_dir
@options.device
@choices.gate
@click.option("--json", "as_json", is_flag=True, help="Print the report, or the table of several models, as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV table with one line for each model.")
def gate(
    models: tuple[Path, ...],
    data_options: DataOptions,
    model_options: ModelOptions,
    models_dir: Path,
    device: str,
    gate_options: GateOptions,
    as_json: bool,
    as_csv: bool,
) -> int:
    """Measure MODEL (default: the newest) on images it was not trained on, and judge every criterion.

    MODEL is a weights file (.pth), an ONNX classifier from any program (.onnx), or a folder of them. Several models are
    listed in one table, the worst first. In this table, a file that cannot be judged counts as blocked.

    The exit code is 0 if every model may ship, and 1 if any model must not. The report of each model is written as
    report.html for people and report.json for programs. In GitHub Actions, the verdicts on a single model are added to
    the job summary, and each criterion that does not pass gets an annotation.
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv cannot be combined (choose one)")
    import_torch()
    from mnist import devices
    from mnist.gate import candidates
    from mnist.storage import artifacts

    files.check_writable(gate_options.reports_dir)
    check_gate_options(gate_options, model_options)
    several = len(models) > 1 or as_csv or any(path.is_dir() for path in models)
    paths = candidates.find(models) if models else [artifacts.require_newest(models_dir)]
    loader = Loader(devices.select(device), model_options)
    if several:
        form = "json" if as_json else "csv" if as_csv else "table"
        return _judge_several(paths, data_options, gate_options, loader, form)
    dataset = load_data(data_options, training_data(paths[0], model_options))
    candidate = loader.load(paths[0], dataset)
    judged = judge(candidate, dataset, gate_options, loader.load_baseline(gate_options, dataset))
    judged.warn(dataset)
    if as_json:
        display.write_json(judged.content)
    else:
        judged.show(dataset)
    return judged.finish()


# ---- Several models --------------------------------------------------------------------------------------------------


def _judge_several(
    paths: Sequence[Path], data_options: DataOptions, gate_options: GateOptions, loader: Loader, form: str
) -> int:
    """Judge models one after the other, print them in one table, and return the exit code."""
    from mnist.gate import ranking
    from mnist.storage import card as cards

    names = set()
    for path in paths:
        with contextlib.suppress(MnistError, OSError):  # the loop below reports these errors
            card = cards.read(cards.card_path(path))
            names.add(card.dataset.name if card else "auto")
    dataset = load_data(data_options, names.pop() if len(names) == 1 else "auto")
    baseline = _evaluate_baseline(loader.load_baseline(gate_options, dataset), dataset, gate_options)
    rows, lost, internal_error = [], [], None
    for number, path in enumerate(paths, start=1):
        display.notify(f"judging {number} of {len(paths)}: {path}")
        try:
            judged = judge(loader.load(path, dataset), dataset, gate_options, baseline)
            rows.append(ranking.describe(judged.evaluation, judged.page))
            lost += [judged.problem] if judged.problem else []
        except OSError as error:
            rows.append(ranking.unreadable(path, files.explain(error)))
        except MnistError as error:
            rows.append(ranking.unreadable(path, str(error)))
        except Exception as error:  # raised after the results of the other models are printed
            internal_error = error
            rows.append(ranking.unreadable(path, f"internal error: {type(error).__name__}: {first_line(error)}"))
    results.show_ranking(ranking.worst_first(rows), dataset.test.description, form)
    if internal_error:
        raise internal_error
    for problem in lost:
        display.write(f"error: {problem}", err=True)
    return BLOCKED if any(row.blocks for row in rows) else BAD_INPUT if lost else 0


def _evaluate_baseline(
    baseline: "Candidate | None", dataset: "Dataset", gate_options: GateOptions
) -> "Evaluation | None":
    """Measure the baseline once for all models; it is judged again for each model, with that model's policy."""
    from mnist import gate as gates

    if baseline is None:
        return None
    return gates.evaluate(baseline, dataset, gates.load_policy(gate_options.policy or gates.POLICY))
