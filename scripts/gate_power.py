"""Measure the power of the gate: which sabotages it blocks, and whether honestly trained models pass.

    python scripts/gate_power.py             everything, on MNIST: about 20 minutes; updates docs/gate.md
    python scripts/gate_power.py --quick     the strongest sabotages only, on the offline subset: half a minute

Every sabotage is tried at increasing strengths, and the gate judges each result like any artifact. The first table
shows the strength from which the intended criterion blocks it, and the strength from which any criterion does. The
second table shows honest models of other seeds: a criterion that blocks one of them raises a false alarm. The exit code
is 1 if the intended criterion misses a sabotage, or if an honest model of a recipe that is meant to ship is blocked.
"""

import argparse
import multiprocessing
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import documents
import torch
from sabotage import SABOTAGES
from workshop import IMAGES_PER_TRAINING, Candidate, Workshop, blocked_by, caught_by

from mnist import architecture, datasets, gate, recipes, trainer
from mnist.storage import artifacts

DOCUMENT = documents.DOCS / "gate.md"
SHIPPED_RECIPES = ("standard", "fast")  # their honest models must all pass
FIRST_HONEST_SEED = 1_000  # no other program uses seeds from here on
NEVER = "**never**"


def main() -> None:
    """Judge the sabotages and the honest models, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the strongest sabotages, on the subset; no document")
    parser.add_argument("--seeds", type=int, default=30, help="honest models of each recipe (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: %(default)s)")
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(options.jobs, _open_workshop, [options.quick]) as pool:
        missed = _judge_sabotages(pool, options.quick)
        false_alarms = 0 if options.quick else _judge_honest_models(pool, options.seeds)
    sys.exit(bool(missed or false_alarms))


def _open_workshop(quick: bool) -> None:
    """Create the workshop that all jobs of this process share."""
    global _workshop
    torch.set_num_threads(1)
    data = datasets.load_subset() if quick else datasets.load_mnist(Path("data"))
    recipe = recipes.get("standard", epochs=IMAGES_PER_TRAINING / len(data.train))
    model = trainer.train(recipe, data.train.images, data.train.labels).model
    _workshop = Workshop(model, data, gate.load_policy(recipe="standard", dataset=data.name))


# ---- Sabotages -------------------------------------------------------------------------------------------------------


def _judge_sabotages(pool: Pool, quick: bool) -> int:
    """Print the table and, unless ``quick``, write it; return the number of kinds that their criterion misses."""
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
        rows.append([kind.name, kind.criterion, ", ".join(shown for shown, _ in results), by_criterion, by_any])
        print(documents.row(rows[-1]), flush=True)
    total = f"{len(SABOTAGES) - missed} of {len(SABOTAGES)} kinds are blocked by the criterion meant for them."
    print(total)
    if not quick:
        documents.replace_section(DOCUMENT, "sabotage", f"{documents.table(header, rows, 'lllll')}\n\n{total}")
    return missed


def _judge_sabotage(job: tuple[int, Any]) -> set[str]:
    number, strength = job
    return caught_by(_workshop, SABOTAGES[number], strength)


def _judge_good_model() -> set[str]:
    return blocked_by(_workshop, Candidate(model=_workshop.model))


def _format_strength(strength: Any) -> str:
    if isinstance(strength, int):
        return f"{strength:,}"
    return f"{strength:g}" if isinstance(strength, float) else strength


# ---- Honest models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Honest:
    """The gate's verdict on an honestly trained model."""

    recipe: str
    accuracy: float  # on the test set
    blocked_by: list[str]  # criteria
    beyond_bound: list[str]  # criteria whose point estimate is beyond the bound, whatever the confidence interval


def _judge_honest_models(pool: Pool, seeds: int) -> int:
    """Print and write the table; return the number of blocked models of the recipes that are meant to ship."""
    runs = [(name, FIRST_HONEST_SEED + seed) for name in ("baseline", *SHIPPED_RECIPES) for seed in range(seeds)]
    header = ["recipe", "models", "accuracy", "pass the gate", "blocked by (models)", "point estimate beyond a bound"]
    rows = []
    results = pool.map(_judge_honest_model, runs, chunksize=1)
    for name in dict.fromkeys(name for name, _ in runs):
        of_recipe = [result for result in results if result.recipe == name]
        accuracies = [result.accuracy for result in of_recipe]
        passed = sum(not result.blocked_by for result in of_recipe)
        beyond = sum(bool(result.beyond_bound) for result in of_recipe)
        rows.append(
            [
                f"`{name}`",
                str(len(of_recipe)),
                f"{min(accuracies):.2%} to {max(accuracies):.2%}",
                f"{passed} of {len(of_recipe)}",
                _count(result.blocked_by for result in of_recipe),
                f"{beyond} of {len(of_recipe)}: {_count(result.beyond_bound for result in of_recipe)}",
            ]
        )
    table = documents.table(header, rows, "lrlrll")
    print(table)
    documents.replace_section(DOCUMENT, "honest", table)
    return sum(bool(result.blocked_by) for result in results if result.recipe in SHIPPED_RECIPES)


def _judge_honest_model(run: tuple[str, int]) -> Honest:
    name, seed = run
    mnist = datasets.load_mnist(Path("data"))
    recipe = recipes.get(name, seed=seed)
    model = trainer.train(recipe, mnist.train.images, mnist.train.labels).model
    initial = architecture.build(recipe.architecture, torch.Generator().manual_seed(seed))
    candidate = Candidate(model=model, initial=initial, bytes=len(artifacts.serialize(model)))
    evaluation = gate.evaluate(candidate, mnist, gate.load_policy(recipe=name, dataset="mnist"))
    return Honest(
        name,
        evaluation.measurement.accuracy,
        blocked_by=[verdict.criterion for verdict in gate.blocked(evaluation.verdicts)],
        beyond_bound=[verdict.criterion for verdict in evaluation.verdicts if not verdict.holds],
    )


def _count(groups: Iterable[list[str]]) -> str:
    counts = Counter(name for group in groups for name in group)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common()) or "none"


if __name__ == "__main__":
    main()
