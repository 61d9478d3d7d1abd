"""Train recipes with several seeds, and summarize their accuracy on MNIST's test set.

    python scripts/seeds.py                                   train ten seeds of baseline, standard and fast
    python scripts/seeds.py --seeds 5 accurate

Each run is a process with one thread; `--jobs` processes run at once. The results are appended to docs/seeds.jsonl. A
run is skipped if its result is in that file and its recipe has not changed. The table in docs/benchmarks.md summarizes
all results, and so does mnist/recipe_results.json, which `mnist recipes` shows. The results are measured on the test
set: report them, but base no choice on them. `make pictures` plots them in docs/frontier.png.
"""

import argparse
import dataclasses
import json
import multiprocessing
import statistics
from pathlib import Path
from typing import Any

import documents
import torch
from arguments import positive

from mnist import architecture, datasets, files, recipe_files, recipes, trainer
from mnist.gate import performance
from mnist.recipes import Recipe
from mnist.report import figures

RESULTS = documents.DOCS / "seeds.jsonl"
RECIPES = ("baseline", "standard", "fast")  # recipes that are trained by default
SEEDS = 10  # default number of seeds of each recipe

# Parameters and test accuracy of a single run, at the best or the last epoch, as its authors reported; keyed by source.
PUBLISHED = {
    "github.com/nitin-vig/ERAv4S6, iteration 3": (7_070, 0.994),
    "github.com/The-School-of-AI/era-s7-ram, epoch 15": (8_900, 0.995),
    "github.com/gokul-pv/Backpropagation_explained, part 2, epoch 19": (12_674, 0.9946),
    "github.com/shishir13/Personal_Projects, MNIST_99.4": (15_578, 0.9943),
}


def main() -> None:
    """Execute the missing runs, then write the summaries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", default=list(RECIPES), metavar="RECIPE")
    parser.add_argument(
        "--seeds", type=positive, default=SEEDS, help="number of seeds, which start at 0 (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=positive, default=2, help="processes at once (default: %(default)s)")
    options = parser.parse_args()
    runs = [(name, seed) for name in options.recipes for seed in range(options.seeds)]
    done = {(result["recipe"]["name"], result["recipe"]["seed"]) for result in _results()}
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool, RESULTS.open("a", encoding="utf-8") as file:
        for result in pool.imap_unordered(_run, [run for run in runs if run not in done]):
            print(json.dumps(result), file=file, flush=True)
            print(f"{result['recipe']['name']}, seed {result['recipe']['seed']}: {result['accuracy']:.2%}", flush=True)
    write_summaries()


def write_summaries() -> None:
    """Print the table of all results, and write it and ``mnist/recipe_results.json``."""
    text = _table(_results())
    print(text)
    documents.replace_section(documents.DOCS / "benchmarks.md", "seeds", text)
    files.write_atomically(recipe_files.RESULTS, summarize())


def summarize() -> bytes:
    """Return the content of ``mnist/recipe_results.json``, which ``mnist recipes`` shows."""
    summaries = {}
    for name, runs in _by_recipe(_results()).items():
        accuracies = [run["accuracy"] for run in runs]
        summaries[name] = recipe_files.Result(
            parameters=runs[0]["parameters"],
            seeds=len(runs),
            accuracy=statistics.mean(accuracies),
            lowest=min(accuracies),
            highest=max(accuracies),
            worst_digit=statistics.mean(run["worst_digit"] for run in runs),
        )
    return files.to_json({name: dataclasses.asdict(summary) for name, summary in summaries.items()})


def _results() -> list[dict[str, Any]]:
    """Return the results of unchanged recipes, sorted by recipe and seed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    known = [result for result in map(json.loads, lines) if result["recipe"]["name"] in recipes.RECIPES]
    order = list(recipes.RECIPES)
    return sorted(
        (
            result
            for result in known
            if Recipe(**result["recipe"]) == recipes.get(result["recipe"]["name"], seed=result["recipe"]["seed"])
        ),
        key=lambda result: (order.index(result["recipe"]["name"]), result["recipe"]["seed"]),
    )


def _run(run: tuple[str, int]) -> dict[str, Any]:
    """Train a recipe with a seed; return its result."""
    name, seed = run
    torch.set_num_threads(1)
    mnist = datasets.load_mnist(Path("data"))
    recipe = recipes.get(name, seed=seed)
    model = trainer.train(recipe, mnist.train.images, mnist.train.labels).model
    measured = performance.evaluate(model, mnist.test)
    return {
        "recipe": dataclasses.asdict(recipe),
        "parameters": architecture.count_parameters(model),
        "accuracy": measured.accuracy,
        "worst_digit": min(measured.per_digit),
    }


def _by_recipe(results: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(result["recipe"]["name"] for result in results)
    return {name: [result for result in results if result["recipe"]["name"] == name] for name in names}


def _table(results: list[dict[str, Any]]) -> str:
    header = ["recipe", "parameters", "seeds", "accuracy: mean (range)", "worst digit: mean (range)"]
    rows = []
    for name, runs in _by_recipe(results).items():
        accuracy, worst = (
            documents.spread([100 * result[key] for result in runs], 2, " %", statistics.mean)
            for key in ("accuracy", "worst_digit")
        )
        rows.append([f"`{name}`", f"{runs[0]['parameters']:,}", str(len(runs)), accuracy, worst])
    return documents.table(header, rows, "lrrll")


def draw(path: Path) -> None:
    """Plot the error of all recipes and published models against their numbers of parameters."""
    results = _by_recipe(_results())
    ours = {name: (runs[0]["parameters"], [run["accuracy"] for run in runs]) for name, runs in results.items()}
    figures.draw_frontier(ours, PUBLISHED, path)


if __name__ == "__main__":
    main()
