"""Repeat the hyperparameter search: train variants of each recipe, and measure them on the last training images.

    python scripts/search.py --runs 20                              20 runs of each recipe
    python scripts/search.py --recipe fast --seeds 3 --minutes 30   as many runs as can start within half an hour
    python scripts/search.py --report                               print the results so far

The first configuration of a recipe is its present choice, the current hyperparameters. The others are drawn without
replacement from all combinations of the values in `SPACES`; only the recipe's name determines their order. The results
are appended to docs/search.jsonl, one line per run. Runs whose results are in that file are skipped, so an interrupted
search can be continued. No test image is used: `divide_training_images` returns only training images.

The recipe `baseline` is not searched, because its hyperparameters are fixed on purpose. The network and the epochs are
not searched either, because they determine the size and the cost of a recipe.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import documents
import torch
from arguments import positive

from mnist import datasets, files, recipe_changes, recipes, trainer
from mnist.datasets import Split
from mnist.errors import MnistError, first_line
from mnist.gate import intervals, performance
from mnist.gate.intervals import Estimate
from mnist.progress import DivergedError
from mnist.recipes import Recipe
from mnist.storage.card import parse
from mnist.trainer import TrainingError

RESULTS = documents.DOCS / "search.jsonl"
MAX_RESULT_BYTES = 100_000_000  # maximum size of the results file
INTERRUPTED = 130  # exit code
BEST_SHOWN = 5  # number of configurations of each recipe in the report
LINE_START = b'{"recipe": '  # every line of the results file starts with these bytes

Space = dict[str, tuple[float, ...]]  # values to try, keyed by recipe field

_SMALL_SPACE: Space = {  # the space of accurate, accurate-10k and accurate-5k
    "learning_rate": (0.005, 0.01, 0.02),
    "batch_size": (64, 96, 128),
    "warmup": (0.1, 0.2, 0.3),
    "beta1": (0.85, 0.9),
    "beta2": (0.95, 0.99),
    "rotation": (10.0, 15.0),
    "translation": (0.07, 0.1),
    "scaling": (0.1, 0.15),
}
_TINY_SPACE: Space = {
    "learning_rate": (0.01, 0.02, 0.03),
    "batch_size": (64, 96, 128),
    "warmup": (0.1, 0.2, 0.3),
    "weight_decay": (0.0, 0.01, 0.05),
    "label_smoothing": (0.0, 0.02, 0.05),
    "rotation": (0.0, 5.0, 10.0),
    "translation": (0.0, 0.04, 0.07),
    "scaling": (0.0, 0.05, 0.1),
}

# Each space includes the present choice.
SPACES: dict[str, Space] = {
    "standard": {
        "learning_rate": (0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03),
        "warmup": (0.1, 0.2, 0.3, 0.4),
    },
    "fast": {
        "learning_rate": (0.01, 0.015, 0.02),
        "batch_size": (64, 80, 96),
        "warmup": (0.15, 0.25, 0.35),
        "beta1": (0.8, 0.85, 0.9),
        "beta2": (0.95, 0.99),
        "weight_decay": (0.0, 0.05, 0.3),
        "label_smoothing": (0.0, 0.05, 0.1),
    },
    "accurate": {**_SMALL_SPACE, "weight_decay": (0.0, 0.05, 0.15), "label_smoothing": (0.0, 0.05, 0.1)},
    "robust": {
        "learning_rate": (0.005, 0.01, 0.02),
        "batch_size": (128, 256),
        "weight_decay": (0.0, 0.02, 0.05),
        "label_smoothing": (0.0, 0.03, 0.05),
        "scaling": (0.2, 0.3, 0.4),
        "shear": (10.0, 17.0),
        "randomization": (0.5, 0.65, 0.8),
    },
    "accurate-10k": {**_SMALL_SPACE, "weight_decay": (0.0, 0.03, 0.05), "label_smoothing": (0.02, 0.04, 0.05)},
    "accurate-5k": {**_SMALL_SPACE, "weight_decay": (0.0, 0.01, 0.03), "label_smoothing": (0.0, 0.02, 0.05)},
    "accurate-2k": _TINY_SPACE,
    "accurate-1k": _TINY_SPACE,
}


class SearchError(MnistError):
    """A file does not contain results of this program."""


@dataclass(frozen=True)
class Job:
    """A run that is still to be done."""

    recipe: Recipe  # with the number of epochs for MNIST
    dataset: str  # name for `datasets.load`
    validation: int  # number of training images to measure on
    deadline: float  # Unix time in seconds after which the run does not start


@dataclass(frozen=True)
class Result:
    """The result of a run, which is a line of the results file."""

    recipe: Recipe  # with the number of epochs for MNIST
    changed: tuple[str, ...]  # fields in which the recipe differed from the present choice at the time of the run
    seed: int
    measured_on: str  # description of the validation images
    accuracy: float
    correct: int  # number of correct predictions; 0 if the training diverged
    total: int  # number of validation images
    loss: float | None  # mean cross-entropy; None if the training diverged
    seconds: float  # training time


@dataclass(frozen=True)
class Configuration:
    """A recipe and the results of its runs, which differ only in the seed."""

    recipe: Recipe  # the recipe with seed 0
    results: list[Result]

    @property
    def accuracy(self) -> Estimate:
        """The mean accuracy with the Wilson interval for one run, because more seeds do not add images."""
        correct = statistics.mean(result.correct for result in self.results)
        interval = intervals.proportion(round(correct), self.results[0].total)
        return dataclasses.replace(interval, value=correct / self.results[0].total)


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the missing runs within the budget, print the report, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=SPACES, help="recipe to search (default: all that are listed)")
    parser.add_argument("--runs", type=positive, help="runs of each recipe, including those already done")
    parser.add_argument("--minutes", type=float, help="start no run after this time")
    parser.add_argument("--seeds", type=positive, default=1, help="runs of each configuration (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=2, help="processes at once (default: %(default)s)")
    parser.add_argument(
        "--validation", type=positive, default=10_000, help="training images to measure on (default: %(default)s)"
    )
    parser.add_argument("--dataset", choices=("mnist", "subset"), default="mnist", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of results (default: %(default)s)")
    parser.add_argument("--report", action="store_true", help="only print the report")
    options = parser.parse_args(arguments)
    if not (options.report or options.runs or options.minutes):
        parser.error("the search needs a budget: --runs or --minutes (or --report to print the results so far)")
    code = 0
    try:
        if not options.report:
            try:
                search(options)
            except KeyboardInterrupt:
                print(f"interrupted (the same command continues the search; the results are in {options.output})")
                code = INTERRUPTED
        print(report(read(options.output)))
    except MnistError as error:
        parser.error(first_line(error))
    except OSError as error:
        parser.error(files.explain(error))
    return code


# ---- Runs ------------------------------------------------------------------------------------------------------------


def search(options: argparse.Namespace) -> None:
    """Execute the runs within the budget that are not in the results file, and append each result to the file."""
    results = read(options.output)
    drop_partial_line(options.output)
    _, validation = divide_training_images(options.dataset, options.validation)
    done = {result.recipe for result in results if result.measured_on == validation.description}
    deadline = time.time() + 60 * options.minutes if options.minutes else math.inf
    names = [options.recipe] if options.recipe else list(SPACES)
    jobs = [
        Job(recipe, options.dataset, options.validation, deadline)
        for recipe in plan(names, options.runs, options.seeds)
        if recipe not in done
    ]
    with contextlib.ExitStack() as stack:
        if options.jobs == 1:
            finished: Iterable[Result | None] = map(run, jobs)
        else:
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(context.Pool(options.jobs, signal.signal, (signal.SIGINT, signal.SIG_IGN)))
            finished = pool.imap_unordered(run, jobs)
        for result in finished:
            if result is not None:
                append(options.output, result)
                shown = f"{result.recipe.name}, seed {result.seed}, {describe(result.recipe)}"
                print(f"{shown}: {result.accuracy:.2%} in {result.seconds:.1f} s", flush=True)


def plan(names: Sequence[str], limit: int | None, seeds: int) -> Iterator[Recipe]:
    """Yield the runs of each recipe in turn: at most ``limit`` runs, with ``seeds`` seeds for each configuration."""
    for number in range(limit or max(len(configurations(name)) for name in names) * seeds):
        for name in names:
            if number // seeds < len(configurations(name)):
                yield dataclasses.replace(configurations(name)[number // seeds], seed=number % seeds)


@functools.cache
def configurations(name: str) -> list[Recipe]:
    """Return all configurations of a recipe, the present choice first. The order depends only on the name."""
    present, space = recipes.get(name), SPACES[name]
    every = [
        recipes.get(name, **dict(zip(space, values, strict=True))) for values in itertools.product(*space.values())
    ]
    # Unlike `shuffle`, `random` is guaranteed to give the same numbers in every Python version.
    generator = random.Random(name)
    ranks = [generator.random() for _ in every]
    drawn = [recipe for _, recipe in sorted(zip(ranks, every, strict=True), key=lambda pair: pair[0])]
    return [present, *(recipe for recipe in drawn if recipe != present)]


@functools.cache
def divide_training_images(dataset: str, validation: int) -> tuple[Split, Split]:
    """Load a data set; divide its training images into a training split and a validation split.

    The test images are dropped here: no other function of this program loads a data set.
    """
    train = datasets.load(dataset, Path("data"), mirror=os.environ.get("MNIST_MIRROR")).train
    return datasets.divide(train, validation)


def run(job: Job) -> Result | None:
    """Train and measure a configuration with one thread; return None if the deadline has passed."""
    if time.time() >= job.deadline:
        return None
    torch.set_num_threads(1)
    train, validation = divide_training_images(job.dataset, job.validation)
    recipe = job.recipe.scaled_to(len(train) + len(validation))
    start = time.perf_counter()
    try:
        model = trainer.train(recipe, train.images, train.labels).model
        seconds = time.perf_counter() - start
        measured = performance.evaluate(model, validation)
        correct, loss = round(measured.accuracy * len(validation)), measured.loss
    except (DivergedError, TrainingError):
        seconds = time.perf_counter() - start
        correct, loss = 0, None
    return Result(
        recipe=job.recipe,
        changed=tuple(recipe_changes.find(job.recipe, recipes.MNIST_TRAINING_IMAGES)),
        seed=job.recipe.seed,
        measured_on=validation.description,
        accuracy=correct / len(validation),
        correct=correct,
        total=len(validation),
        loss=loss,
        seconds=seconds,
    )


# ---- The results file ------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Result]:
    """Return the results in a file, or an empty list if the file does not exist. A partial last line is ignored.

    Raises:
        SearchError: if a line is not a result.
        OSError: if the file cannot be read.
    """
    lines, partial = _read_lines(path)
    if not (partial.startswith(LINE_START) or LINE_START.startswith(partial)):
        raise SearchError(f"{path} is not a file of results: its last line is incomplete (choose another --output)")
    return [_parse_line(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _parse_line(line: bytes, name: str) -> Result:
    try:
        result: Result = parse(Result, json.loads(line), "the line")
    except (ValueError, TypeError, RecursionError, MnistError) as error:
        raise SearchError(f"{name} is not a result: {first_line(error)} (remove the line)") from error
    return result


def drop_partial_line(path: Path) -> None:
    """Remove a partial last line, which remains if a run is killed while it writes the line."""
    _, partial = _read_lines(path)
    if partial:
        os.truncate(path, path.stat().st_size - len(partial))


def append(path: Path, result: Result) -> None:
    """Append a result to the file as a line, and flush the file to the device."""
    with path.open("ab") as file:
        file.write(files.to_json(dataclasses.asdict(result), indent=None))
        file.flush()
        os.fsync(file.fileno())


def _read_lines(path: Path) -> tuple[list[bytes], bytes]:
    """Return the complete lines of a file, and the rest after the last complete line."""
    if not path.exists():
        return [], b""
    *lines, partial = bytes(files.read(path, MAX_RESULT_BYTES)).split(b"\n")
    return lines, partial


# ---- The report ------------------------------------------------------------------------------------------------------


def describe(recipe: Recipe) -> str:
    """Return a description of how a recipe differs from the present choice."""
    return recipe_changes.describe_changes(recipe, recipes.MNIST_TRAINING_IMAGES) or "present choice"


def report(results: Sequence[Result]) -> str:
    """Return a table for each recipe and each validation split."""
    groups: dict[tuple[str, str], dict[Recipe, list[Result]]] = {}
    for result in results:
        group = groups.setdefault((result.recipe.name, result.measured_on), {})
        group.setdefault(dataclasses.replace(result.recipe, seed=0), []).append(result)
    tables = [
        _report_recipe(name, measured_on, [Configuration(*each) for each in group.items()])
        for (name, measured_on), group in sorted(groups.items())
        if name in SPACES
    ]
    return "\n\n".join(tables) or "no results yet"


def _report_recipe(name: str, measured_on: str, configurations: list[Configuration]) -> str:
    """Return a table of the best configurations and the present choice, followed by the rank of the present choice."""
    ranked = sorted(configurations, key=lambda each: -each.accuracy.value)
    values = [each.accuracy.value for each in ranked]
    ranks = [1 + values.index(value) for value in values]
    present = next((number for number, each in enumerate(ranked) if each.recipe == recipes.get(name)), None)
    shown = sorted({*range(min(BEST_SHOWN, len(ranked))), *([] if present is None else [present])})
    rows = [
        [
            str(ranks[number]),
            describe(ranked[number].recipe),
            str(len(ranked[number].results)),
            f"{100 * ranked[number].accuracy.value:.2f} %",
            f"{100 * ranked[number].accuracy.low:.2f} to {100 * ranked[number].accuracy.high:.2f}",
        ]
        for number in shown
    ]
    header = ["rank", "configuration", "seeds", "validation accuracy", "95 % interval"]
    position = "has not been run" if present is None else f"is number {ranks[present]} of {len(ranked)} configurations"
    return (
        f"`{name}`, measured on: {measured_on}\n\n{documents.table(header, rows, 'rlrrr')}\n\n"
        f"The present choice {position}."
    )


if __name__ == "__main__":
    sys.exit(main())
