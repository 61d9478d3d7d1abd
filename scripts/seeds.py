"""Train recipes with several seeds, measure each model on MNIST's test set, judge it, and print a table.

    python scripts/seeds.py --seeds 10 baseline standard fast
    python scripts/seeds.py --seeds 5 accurate

A look at the test set, and so for reporting alone: nothing may be chosen by what it prints. Every run is a process of
its own with one thread; ``--jobs`` of them work at once.
"""

import argparse
import dataclasses
import multiprocessing
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from mnist import datasets, gate, metrics, recipes, trainer


@dataclass(frozen=True)
class Result:
    """What one training led to."""

    recipe: str
    seed: int
    parameters: int
    accuracy: float
    worst_digit: float
    blocked_by: list[str]


def main() -> None:
    """Train, measure, judge; one line of Markdown for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=["baseline", "standard", "fast"], choices=recipes.RECIPES)
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 on (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: %(default)s)")
    options = parser.parse_args()
    runs = [(name, seed) for name in options.recipes for seed in range(options.seeds)]
    results = []
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for result in pool.imap_unordered(_run, runs, chunksize=1):
            print(dataclasses.asdict(result), file=sys.stderr, flush=True)
            results.append(result)
    print("| recipe | parameters | accuracy: mean (range) | worst digit: mean (range) | meets every criterion |")
    print("| --- | ---: | --- | --- | --- |")
    for name in options.recipes:
        mine = [result for result in results if result.recipe == name]
        accuracy = _spread([result.accuracy for result in mine])
        worst = _spread([result.worst_digit for result in mine])
        passed = sum(not result.blocked_by for result in mine)
        print(f"| `{name}` | {mine[0].parameters:,} | {accuracy} | {worst} | {passed} of {len(mine)} |")


def _run(run: tuple[str, int]) -> Result:
    name, seed = run
    torch.set_num_threads(1)
    mnist = datasets.load_mnist(Path("data"))
    model = trainer.train(recipes.get(name, seed=seed), mnist.train.images, mnist.train.labels).model
    measurement = metrics.measure(model, mnist.test, torch.Generator().manual_seed(0))
    blocked_by = [verdict.criterion.name for verdict in gate.judge(measurement) if not verdict.passes]
    return Result(name, seed, measurement.parameters, measurement.accuracy, min(measurement.per_digit), blocked_by)


def _spread(fractions: list[float]) -> str:
    mean, low, high = (100 * value for value in (statistics.mean(fractions), min(fractions), max(fractions)))
    return f"{mean:.2f} % ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
