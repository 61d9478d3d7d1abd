"""Compute how often the gate blocks a model that is worse than its baseline, by the size of the loss.

    python scripts/regression_power.py     takes about a minute; updates docs/gate.md

A simulated successor disagrees with its baseline on some images by chance, as models with other seeds do. In addition,
it misclassifies a share of the images, which is the same for every digit. The table shows how often the comparison
criteria block the successor, and how often a rule without margins, which blocks every significant loss, would block it.
"""

import argparse

import documents
import torch
from arguments import positive

from mnist import gate
from mnist.gate import Comparison
from mnist.shapes import CLASSES

DOCUMENT = documents.DOCS / "gate.md"
IMAGES = (1_000, 10_000)
LOSSES = (0.0, 0.002, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05)  # shares of the images
DISAGREEMENT = 0.012  # share of images that only one particular model of a pair of `standard` models recognizes
SIGNIFICANCE = 0.05


def main() -> None:
    """Simulate all losses, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=positive, default=300, help="simulations per loss (default: %(default)s)")
    parser.add_argument("--no-document", action="store_true", help="only print the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    header = ["true loss"]
    header += [f"{images:,} images: {rule}" for images in IMAGES for rule in ("blocked", "warned", "without margins")]
    rows = []
    for loss in LOSSES:
        shares = [share for images in IMAGES for share in simulate(loss, images, options.repetitions)]
        rows.append([f"{100 * loss:g} points", *(f"{share:.0%}" for share in shares)])
        print(documents.row(rows[-1]), flush=True)
    if not options.no_document:
        documents.replace_section(DOCUMENT, "regression", documents.table(header, rows, "l" + "r" * (len(header) - 1)))


def simulate(loss: float, images: int, repetitions: int) -> tuple[float, float, float]:
    """Return the shares of successors that are blocked, that get only a warning, and whose loss is significant."""
    generator, policy = torch.Generator().manual_seed(0), gate.load_policy()
    labels = torch.arange(images) % CLASSES
    blocked = warned = significant = 0
    for _ in range(repetitions):
        chance = torch.rand(images, generator=generator)
        comparison = Comparison(labels, lost=chance < DISAGREEMENT + loss, gained=chance > 1 - DISAGREEMENT)
        verdicts = gate.judge_comparison(comparison, policy)
        is_blocked = any(verdict.blocks for verdict in verdicts)
        blocked += is_blocked
        warned += not is_blocked and not all(verdict.passes for verdict in verdicts)
        p_values = [comparison.regression(0.0), *(comparison.regression(0.0, *each) for each in comparison.digits())]
        significant += any(p.value < SIGNIFICANCE for p in p_values)
    return blocked / repetitions, warned / repetitions, significant / repetitions


if __name__ == "__main__":
    main()
