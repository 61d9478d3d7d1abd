"""Measure the power of the gate: which sabotages it blocks, and whether correctly trained models pass.

    python scripts/gate_power.py                   everything, on MNIST; takes hours, updates docs/gate.md
    python scripts/gate_power.py --only honest     only the good models; those in models/honest are not trained again
    python scripts/gate_power.py --quick           only the strongest sabotages, on the offline subset; takes a minute

Every sabotage is tried with increasing strength, and the gate judges each result like any artifact. The first table
shows the strength from which the intended criterion blocks the sabotage, and the strength from which any criterion
blocks it. The second table shows honest models, which are trained without sabotage and with different seeds: a
criterion that blocks an honest model raises a false alarm. The third table compares honest models of the same recipe
with each other, as a baseline and its successor. The exit code is 1 if the intended criterion misses a sabotage, or if
fewer than 98 % of the honest models of recipes that are meant to ship pass.
"""

import argparse
import functools
import itertools
import multiprocessing
import random
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import documents
import torch
from arguments import positive
from sabotage import SABOTAGES
from torch import Tensor
from torch.nn import functional as F
from workshop import Candidate, Workshop, blocked_by, caught_by, train_or_load

from mnist import architecture, datasets, gate, recipes, trainer
from mnist.gate import intervals
from mnist.shapes import CLASSES

DOCUMENT = documents.DOCS / "gate.md"
HONEST_MODELS = {  # number of models of each recipe
    "baseline": 30,
    "standard": 60,
    "fast": 30,
    "accurate": 5,
    "robust": 1,
    "accurate-10k": 5,
    "accurate-5k": 5,
    "accurate-2k": 5,
    "accurate-1k": 5,
}
NOT_SHIPPED = ("baseline",)  # recipes whose honest models may be blocked
MIN_SHARE_PASSING = 0.98  # minimum share of the honest models of all other recipes that must pass
RETRAIN_IMAGES = (10_000, 1_000)  # numbers of images on which pairs of honest models are compared
MAX_PAIRS = 300  # maximum number of random pairs for each recipe
FIRST_HONEST_SEED = 1_000  # no other program uses seeds from here on
NEVER = "**never**"


def main() -> None:
    """Judge the sabotages and the honest models, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="the strongest sabotages, on the subset; update no document"
    )
    parser.add_argument("--only", choices=("sabotage", "honest"), help="write only the tables of one kind")
    parser.add_argument(
        "--seeds",
        type=positive,
        default=60,
        help="number of correctly trained models per recipe (default and maximum: %(default)s)",
    )
    parser.add_argument(
        "--models", type=Path, default=Path("models/honest"), help="folder of the honest models (%(default)s)"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of MNIST (default: %(default)s)")
    parser.add_argument("--jobs", type=positive, default=2, help="processes at once (default: %(default)s)")
    options = parser.parse_args()
    failed = False
    with multiprocessing.get_context("spawn").Pool(options.jobs, _load, [options.quick, options.data_dir]) as pool:
        if options.only != "honest":
            failed |= bool(_judge_sabotages(pool, options.quick))
        if options.only != "sabotage" and not options.quick:
            failed |= not _judge_honest_models(pool, options.seeds, options.models)
    sys.exit(failed)


def _load(quick: bool, data_dir: Path) -> None:
    """Load the data that all jobs of this process share."""
    global _data
    torch.set_num_threads(1)
    _data = datasets.load_subset() if quick else datasets.load_mnist(data_dir)


@functools.cache
def _workshop() -> Workshop:
    """Create the workshop that all jobs of this process share."""
    recipe = recipes.get("standard").scaled_to(len(_data.train))
    return Workshop(trainer.train(recipe, _data.train.images, _data.train.labels).model, _data)


# ---- Sabotages -------------------------------------------------------------------------------------------------------


def _judge_sabotages(pool: Pool, quick: bool) -> int:
    """Print the table and, unless ``quick``, write it; return the number of sabotages that their criterion misses."""
    if blocking := pool.apply(_judge_good_model):
        sys.exit(f"error: the good model is blocked before any sabotage, by {', '.join(blocking)} (train it longer)")
    header = ["sabotage", "criterion", "strengths tried", "blocks from", "anything blocks from"]
    rows = []
    tried = [kind.strengths[-1:] if quick else kind.strengths for kind in SABOTAGES]
    caught = pool.imap(_judge_sabotage, [(number, strength) for number, each in enumerate(tried) for strength in each])
    missed = 0
    for kind, strengths in zip(SABOTAGES, tried, strict=True):
        results = [(_format_strength(strength), next(caught)) for strength in strengths]
        by_criterion = next((shown for shown, names in results if kind.criterion in names), NEVER)
        by_any = next((shown for shown, names in results if names), NEVER)
        missed += by_criterion == NEVER
        rows.append([kind.name, kind.criterion, "; ".join(shown for shown, _ in results), by_criterion, by_any])
        print(documents.row(rows[-1]), flush=True)
    total = f"{len(SABOTAGES) - missed} of {len(SABOTAGES)} kinds are blocked by the criterion meant for them."
    print(total)
    if not quick:
        documents.replace_section(DOCUMENT, "sabotage", f"{documents.table(header, rows, 'lllll')}\n\n{total}")
    return missed


def _judge_sabotage(job: tuple[int, Any]) -> set[str]:
    number, strength = job
    return caught_by(_workshop(), SABOTAGES[number], strength)


def _judge_good_model() -> set[str]:
    return blocked_by(_workshop(), Candidate(model=_workshop().model))


def _format_strength(strength: Any) -> str:
    if isinstance(strength, int):
        return f"{strength:,}"
    return f"{strength:g}" if isinstance(strength, float) else strength


# ---- Honest models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Honest:
    """The gate's verdict on a model that was trained without sabotage."""

    recipe: str
    accuracy: float  # test accuracy
    blocked_by: list[str]  # criteria that block the model
    beyond_bound: list[str]  # criteria whose point estimate is beyond the bound, whatever the confidence interval
    predictions: Tensor  # int64 [N]


def _judge_honest_models(pool: Pool, seeds: int, folder: Path) -> bool:
    """Print and write the tables; return True if enough models of the recipes that are meant to ship pass."""
    counts = {name: min(seeds, count) for name, count in HONEST_MODELS.items()}
    runs = [(name, FIRST_HONEST_SEED + seed, folder) for name, count in counts.items() for seed in range(count)]
    header = ["recipe", "models", "accuracy", "pass the gate", "blocked by (models)", "point estimate beyond a bound"]
    results = pool.map(_judge_honest_model, runs, chunksize=1)
    by_recipe = {name: [result for result in results if result.recipe == name] for name in counts}
    table = documents.table(header, [_describe(name, of_recipe) for name, of_recipe in by_recipe.items()], "lrlrll")
    print(table)
    documents.replace_section(DOCUMENT, "honest", table)
    _compare_honest_models(pool, by_recipe)
    shipped = [result for result in results if result.recipe not in NOT_SHIPPED]
    passed = intervals.proportion(sum(not result.blocked_by for result in shipped), len(shipped))
    print(f"{passed.value:.1%} of {len(shipped)} models of recipes that are meant to ship pass")
    return passed.value >= MIN_SHARE_PASSING


def _describe(name: str, of_recipe: list[Honest]) -> list[str]:
    accuracies = [result.accuracy for result in of_recipe]
    passed = intervals.proportion(sum(not result.blocked_by for result in of_recipe), len(of_recipe))
    beyond = sum(bool(result.beyond_bound) for result in of_recipe)
    return [
        f"`{name}`",
        str(len(of_recipe)),
        f"{min(accuracies):.2%} to {max(accuracies):.2%}",
        f"{round(passed.value * len(of_recipe))} ({passed.low:.0%} to {passed.high:.0%})",
        _count(result.blocked_by for result in of_recipe),
        f"{beyond}: {_count(result.beyond_bound for result in of_recipe)}",
    ]


def _judge_honest_model(run: tuple[str, int, Path]) -> Honest:
    name, seed, folder = run
    recipe = recipes.get(name, seed=seed)
    artifact = train_or_load(folder / f"{name}-{seed}.pth", recipe, _data.train)
    candidate = Candidate(
        model=artifact.model,
        architecture=artifact.architecture,
        initial=architecture.build(recipe.architecture, torch.Generator().manual_seed(seed)),
        bytes=artifact.bytes,
        digests=_data.train.digests,
    )
    policy = gate.load_policy(architecture=artifact.architecture, recipe=name, dataset=_data.name)
    evaluation = gate.evaluate(candidate, _data, policy)
    return Honest(
        name,
        evaluation.measurement.accuracy,
        blocked_by=[verdict.criterion for verdict in gate.blocked(evaluation.verdicts)],
        beyond_bound=[verdict.criterion for verdict in evaluation.verdicts if not verdict.holds],
        predictions=evaluation.measurement.logits.argmax(1),
    )


# ---- Honest models compared with each other --------------------------------------------------------------------------


def _compare_honest_models(pool: Pool, by_recipe: Mapping[str, list[Honest]]) -> None:
    """Print and write the table that shows how often the comparison blocks an equally good successor."""
    header = ["recipe", *(f"{images:,} images: blocked" for images in RETRAIN_IMAGES)]
    rows = []
    for name, of_recipe in by_recipe.items():
        pairs = list(itertools.permutations([result.predictions for result in of_recipe], 2))
        random.Random(0).shuffle(pairs)
        pairs, cells = pairs[:MAX_PAIRS], []
        for images in RETRAIN_IMAGES:
            blocked = pool.starmap(_is_regression, [(name, old, new, images) for old, new in pairs], chunksize=20)
            cells.append(f"{sum(blocked)} of {len(pairs)} pairs")
        rows.append([f"`{name}`", *cells])
    table = documents.table(header, rows, "lrr")
    print(table)
    documents.replace_section(DOCUMENT, "retrains", table)


def _is_regression(recipe: str, old: Tensor, new: Tensor, images: int) -> bool:
    """Return True if a comparison criterion blocks new predictions against old ones, on a sample of the test images."""
    generator = torch.Generator().manual_seed(int((new != old).sum()))
    chosen = torch.randperm(len(old), generator=generator)[:images]
    labels = _data.test.labels[chosen]
    comparison = gate.compare(labels, *(F.one_hot(each[chosen], CLASSES).float() for each in (new, old)))
    policy = gate.load_policy(recipe=recipe, dataset=_data.name)
    return any(verdict.blocks for verdict in gate.judge_comparison(comparison, policy))


def _count(groups: Iterable[list[str]]) -> str:
    counts = Counter(name for group in groups for name in group)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common()) or "none"


if __name__ == "__main__":
    main()
