"""Does the gate block what it must, and let pass what it should? Sabotage models, and train honest ones.

    python scripts/gate_power.py                all of it, on MNIST: about 20 minutes
    python scripts/gate_power.py --quick        the sabotages alone, on the offline subset: half a minute

Every kind of sabotage is tried at growing strengths, each judged like any artifact. The table says from which strength
on the criterion that is meant for it blocks, and from which on anything does. Then honest models of other seeds are
judged: whatever blocks one of those cries wolf. The tables go into docs/gate.md. Exits with 1 where a sabotage is not
caught, or an honest model of a recipe that is to ship is blocked.
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
from sabotage import SABOTAGES, caught_by
from workshop import TRAINING_IMAGES, Candidate, Workshop, blocked_by

from mnist import architecture, datasets, gate, recipes, trainer
from mnist.storage import artifacts

DOCUMENT = documents.DOCS / "gate.md"
TO_SHIP = ("standard", "fast")  # their honest models must all pass
FIRST_SEED = 1_000  # of the honest models: seeds that nothing else here uses


# ---- Honest models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Honest:
    """How an honestly trained model fared.

    blocked_by: criteria; beyond: those whose figure is beyond the bound, whatever the confidence interval says.
    """

    recipe: str
    seed: int
    accuracy: float
    blocked_by: list[str]
    beyond: list[str]


def _judge_honest(run: tuple[str, int]) -> Honest:
    name, seed = run
    mnist = datasets.load_mnist(Path("data"))
    recipe = recipes.get(name, seed=seed)
    model = trainer.train(recipe, mnist.train.images, mnist.train.labels).model
    initial = architecture.build(recipe.architecture, torch.Generator().manual_seed(seed))
    size = len(artifacts.serialize(model))
    measurement = gate.measure(model, initial, mnist.test, mnist.train, bytes=size)
    verdicts = gate.judge(measurement, gate.load_policy(recipe=name, dataset="mnist"))
    return Honest(
        name,
        seed,
        measurement.accuracy,
        blocked_by=[verdict.criterion for verdict in gate.blocked(verdicts)],
        beyond=[verdict.criterion for verdict in verdicts if not verdict.holds],
    )


# ---- Tables ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Sabotage, train honestly, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the strongest sabotages, on the subset; no document")
    parser.add_argument("--seeds", type=int, default=30, help="honest models of each recipe (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: %(default)s)")
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(options.jobs, _open_workshop, [options.quick]) as pool:
        missed = _sabotage(pool, options.quick)
        failed = 0 if options.quick else _train_honestly(pool, options.seeds)
    sys.exit(bool(missed or failed))


def _open_workshop(quick: bool) -> None:
    """Make the workshop that the jobs of this process share."""
    global _workshop
    torch.set_num_threads(1)
    data = datasets.load_subset() if quick else datasets.load_mnist(Path("data"))
    recipe = recipes.get("standard", epochs=TRAINING_IMAGES / len(data.train))
    model = trainer.train(recipe, data.train.images, data.train.labels).model
    _workshop = Workshop(model, data, gate.load_policy(recipe="standard", dataset=data.name))


def _try(job: tuple[int, Any]) -> set[str]:
    number, strength = job
    return caught_by(_workshop, SABOTAGES[number], strength)


def _sabotage(pool: Pool, quick: bool) -> int:
    """Print and keep the table; how many kinds were not caught by their criterion."""
    if blocking := pool.apply(_judge_unspoilt):
        sys.exit(f"the model to be spoilt is blocked as it is, by {', '.join(blocking)}")
    header = ["sabotage", "criterion", "strengths tried", "blocks from", "anything blocks from"]
    rows = []
    tried = [kind.strengths[-1:] if quick else kind.strengths for kind in SABOTAGES]
    caught = pool.imap(_try, [(number, strength) for number, each in enumerate(tried) for strength in each])
    missed = 0
    for kind, strengths in zip(SABOTAGES, tried, strict=True):
        found = [(_show(strength), next(caught)) for strength in strengths]
        by_criterion = next((shown for shown, names in found if kind.criterion in names), "**never**")
        by_any = next((shown for shown, names in found if names), "**never**")
        missed += by_criterion == "**never**"
        shown = ", ".join(strength for strength, _ in found)
        rows.append([kind.name, kind.criterion, shown, by_criterion, by_any])
        print(documents.row(rows[-1]), flush=True)
    total = f"{len(SABOTAGES) - missed} of {len(SABOTAGES)} kinds are blocked by the criterion meant for them."
    print(total)
    if not quick:
        documents.replace_section(DOCUMENT, "sabotage", f"{documents.table(header, rows, 'lllll')}\n\n{total}")
    return missed


def _judge_unspoilt() -> set[str]:
    return blocked_by(_workshop, Candidate(_workshop.model))


def _show(strength: Any) -> str:
    return (
        f"{strength:,}" if isinstance(strength, int) else f"{strength:g}" if isinstance(strength, float) else strength
    )


def _train_honestly(pool: Pool, seeds: int) -> int:
    """Print and keep the table; how many models of the recipes that are to ship were blocked."""
    runs = [(name, FIRST_SEED + seed) for name in ("baseline", *TO_SHIP) for seed in range(seeds)]
    header = [
        "recipe",
        "models",
        "accuracy",
        "pass the gate",
        "blocked by (models)",
        "beyond a bound, by the bare figure",
    ]
    rows = []
    results = pool.map(_judge_honest, runs, chunksize=1)
    for name in dict.fromkeys(name for name, _ in runs):
        mine = [result for result in results if result.recipe == name]
        accuracies = [result.accuracy for result in mine]
        passed, beyond = (sum(not getattr(result, what) for result in mine) for what in ("blocked_by", "beyond"))
        rows.append(
            [
                f"`{name}`",
                str(len(mine)),
                f"{min(accuracies):.2%} to {max(accuracies):.2%}",
                f"{passed} of {len(mine)}",
                _count(result.blocked_by for result in mine),
                f"{len(mine) - beyond} of {len(mine)}: {_count(result.beyond for result in mine)}",
            ]
        )
    text = documents.table(header, rows, "lrlrll")
    print(text)
    documents.replace_section(DOCUMENT, "honest", text)
    return sum(bool(result.blocked_by) for result in results if result.recipe in TO_SHIP)


def _count(groups: Iterable[list[str]]) -> str:
    counts = Counter(name for group in groups for name in group)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common()) or "none"


if __name__ == "__main__":
    main()
