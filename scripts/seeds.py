"""Print the README's table: each recipe trained with several seeds, measured on MNIST's test set, and judged.

    python scripts/seeds.py --seeds 10

A look at the test set, and so for reporting alone: nothing may be chosen by what it prints.
"""

import argparse
import statistics
from pathlib import Path

import torch

from mnist import datasets, gate, metrics, recipes, trainer


def main() -> None:
    """Train, measure, judge; one line of Markdown for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 on (default: %(default)s)")
    seeds = range(parser.parse_args().seeds)
    torch.set_num_threads(1)  # as the commands do
    mnist = datasets.load_mnist(Path("data"))
    print("| recipe | accuracy: mean (range) | worst digit: mean (range) | meets every criterion |")
    print("| --- | --- | --- | --- |", flush=True)
    for name in recipes.RECIPES:
        measured = []
        for seed in seeds:
            run = trainer.train(recipes.get(name, seed=seed), mnist.train.images, mnist.train.labels)
            measured.append(metrics.measure(run.model, mnist.test, torch.Generator().manual_seed(0)))
        passed = sum(all(verdict.passes for verdict in gate.judge(measurement)) for measurement in measured)
        accuracy = _spread([measurement.accuracy for measurement in measured])
        worst = _spread([min(measurement.per_digit) for measurement in measured])
        print(f"| `{name}` | {accuracy} | {worst} | {passed} of {len(seeds)} |", flush=True)


def _spread(fractions: list[float]) -> str:
    mean, low, high = (100 * value for value in (statistics.mean(fractions), min(fractions), max(fractions)))
    return f"{mean:.2f} % ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
