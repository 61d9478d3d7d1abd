"""Time this project against the usual MNIST script, in one run, and say what the machine could do at best.

    make bench                    about ten minutes; renews its section of docs/benchmarks.md
    make bench ARGS=--quick       a minute, one round; prints alone

Runs of the usual script (scripts/conventional.py) and of the recipes take turns, each a process of its own, so that a
machine that slows down slows all of them. Times are medians, with the least and the greatest beside them.
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import documents
import machine
import torch

from mnist import architecture, cli, datasets, recipes, resources, trainer
from mnist.storage import checkpoints

DOCUMENT = documents.DOCS / "benchmarks.md"
DATA = Path("data")
QUICK = ("baseline", "fast")
RECIPES = ("baseline", "standard", "fast")
CHECKPOINT_INTERVAL = 10  # seconds: the default of `mnist train`
LONG = ("accurate",)  # minutes: run once, and not by --quick


def main() -> None:
    """Measure, print, and in a full run renew the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, and less of everything")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="what the recipes train on (default: %(default)s)")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    rates = {threads: machine.matrix_multiplication_rate(threads) for threads in sorted({1, resources.processors()})}

    parts = []
    for part in (
        lambda: machine.describe(rates),
        lambda: _compare_training(rounds, options.device, rates, options.quick),
        lambda: _compare_inference(rates[1], options.quick),
        lambda: _compare_growth(options.quick),
        lambda: _compare_processes(options.quick),
        lambda: _time_checkpoints(options.quick),
    ):
        parts.append(part())
        print(parts[-1], "\n", flush=True)
    if not options.quick:
        documents.replace_section(DOCUMENT, "benchmark", "\n\n".join(parts))


# ---- Training --------------------------------------------------------------------------------------------------------


def _compare_training(rounds: int, device: str, rates: dict[int, float], quick: bool) -> str:
    names = QUICK if quick else RECIPES
    images = 3_000 if quick else 12_000
    choices = (0, resources.processors()) if quick else range(resources.processors() + 1)
    workers = min(choices, key=lambda count: _run_conventional(count, images=images)["seconds"])
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("conventional", *names)}
    import_torch = []
    for seed in range(rounds):
        runs["conventional"].append(_run_conventional(workers, seed=seed))
        for name in names:
            runs[name].append(_run_recipe(name, seed, device))
        import_torch.append(_measure_import())
    for name in () if quick else LONG:
        runs[name] = [_run_recipe(name, 0, device)]

    rows = []
    usual_seconds = [run["seconds"] for run in runs["conventional"]]
    usual_process = [run["process"] for run in runs["conventional"]]
    for name, measured in runs.items():
        seconds, process = ([run[key] for run in measured] for key in ("seconds", "process"))
        gflop = _floating_point_operations("baseline" if name == "conventional" else name) / 1e9
        rows.append(
            [
                f"`{name}`" if name != "conventional" else f"conventional, {workers} workers",
                documents.spread(seconds, 2),
                _ratio(usual_seconds, seconds),
                documents.spread(process, 1),
                _ratio(usual_process, process),
                documents.spread([100 * run["accuracy"] for run in measured], 2, " %", statistics.mean),
                f"{gflop:.0f}",
                f"{gflop / statistics.median(seconds) / max(rates.values()):.0%}",
            ]
        )
    header = ["", "training, s", "times as fast", "process, s", "times as fast", "accuracy", "GFLOP", "of matmul rate"]
    comparison = documents.table(header, rows, "lrrrrrrr")

    started = [run["startup"] for name in names for run in runs[name]]
    bare = [seconds for seconds, _ in import_torch]
    allowed = statistics.median(memory for _, memory in import_torch) + 70_000 * 28 * 28 * 4
    peaks = documents.table(
        ["", "peak memory, MiB", "of torch and the data"],
        [
            [
                f"`{name}`",
                documents.spread([run["memory"] / 2**20 for run in runs[name]], 0),
                f"{statistics.median(run['memory'] for run in runs[name]) / allowed:.2f}",
            ]
            for name in runs
            if name != "conventional"
        ],
        "lrr",
    )
    return (
        f"### Training ({device}; rounds: {rounds}; minutes-long recipes once)\n\n{comparison}\n\n"
        "Training is the loop alone; a process is all from start to exit: imports, data, training, measuring, saving. "
        "Multiply-accumulates of convolutions and linear layers count as two operations, a step as three passes.\n\n"
        "### Start and memory\n\n"
        f"From the start of `mnist train` to the end of its first step {documents.spread(started, 2)} s; "
        f"`python -c 'import torch'` takes {documents.spread(bare, 2)} s.\n\n{peaks}\n\n"
        f"Torch and the data: what `import torch` holds, and all 70,000 images as float32, {allowed / 2**20:,.0f} MiB."
    )


def _run_conventional(workers: int, images: int = 60_000, seed: int = 0) -> dict[str, Any]:
    script = [sys.executable, str(documents.ROOT / "scripts" / "conventional.py")]
    command = [*script, "--workers", str(workers), "--images", str(images), "--seed", str(seed)]
    seconds, output = _timed(command)
    return {**json.loads(output), "process": seconds}


def _run_recipe(name: str, seed: int, device: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        choices = ["--recipe", name, "--seed", str(seed), "--device", device, "--dataset", "mnist"]
        folders = ["--models-dir", folder, "--checkpoints-dir", f"{folder}/checkpoints"]
        seconds, _ = _timed([sys.executable, "-m", "mnist", "train", "--no-gate", *choices, *folders])
        card = json.loads(next(Path(folder).glob("*.json")).read_text(encoding="utf-8"))
    training = card["training"]
    return {
        "seconds": training["seconds"],
        "startup": training["startup_seconds"],
        "memory": training["peak_memory_bytes"],
        "accuracy": card["measured"]["accuracy"],
        "process": seconds,
    }


def _measure_import() -> tuple[float, int]:
    """Seconds that ``import torch`` takes as a process, and bytes that it holds then."""
    report = "import torch, psutil; print(psutil.Process().memory_info().rss)"
    _, memory = _timed([sys.executable, "-c", report])
    seconds, _ = _timed([sys.executable, "-c", "import torch"])
    return seconds, int(memory)


def _timed(command: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8").stdout
    return time.perf_counter() - started, output


def _floating_point_operations(recipe: str) -> float:
    """Of a whole training: twice the multiply-accumulates, forwards once and backwards twice."""
    chosen = recipes.get(recipe)
    model = architecture.build(chosen.architecture, torch.Generator())
    once = architecture.count_multiply_accumulates(model) / model.views  # training looks at one view
    return 2 * 3 * once * chosen.epochs * 60_000


# ---- Inference -------------------------------------------------------------------------------------------------------


def _compare_inference(rate: float, quick: bool) -> str:
    rows = []
    names = QUICK if quick else recipes.RECIPES
    for name in dict.fromkeys(recipes.get(name).architecture for name in names):
        for batch in (1, 1000):
            eager, ours, floor = _in_a_fresh_process(_time_inference, name, batch, 0.2 if quick else 1.0, rate)
            rows.append([f"`{name}`", str(batch), f"{eager:,.0f}", f"{ours:,.0f}", f"{floor:,.0f}"])
    header = ["network", "batch", "eager", "ours", "the products alone"]
    return (
        f"### Inference, images/s, one thread\n\n{documents.table(header, rows, 'lrrrr')}\n\n"
        "Eager: the model called as it was built, on prepared images. Ours: `architecture.predict`, in channels-last "
        "layout and at most 100 images at once. The products alone: multiply-accumulates at the rate of matrix "
        "multiplication."
    )


def _time_inference(name: str, batch: int, seconds: float, rate: float) -> tuple[float, float, float]:
    torch.set_num_threads(1)
    model = architecture.build(name, torch.Generator()).eval()
    images = torch.rand(batch, 1, 28, 28)

    @torch.inference_mode()
    def eager() -> None:
        model(images)

    eager_rate = batch / _seconds_a_call(eager, seconds)
    model = model.to(memory_format=torch.channels_last)
    our_rate = batch / _seconds_a_call(lambda: architecture.predict(model, images), seconds)
    return eager_rate, our_rate, rate * 1e9 / (2 * architecture.count_multiply_accumulates(model))


def _seconds_a_call(call: Callable[[], object], seconds: float) -> float:
    """The median of as many calls as fit into ``seconds``, after a tenth as long of warming up."""
    spent: list[float] = []
    for budget in (seconds / 10, seconds):
        spent.clear()
        while sum(spent) < budget:
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
    return statistics.median(spent)


# ---- Growth ----------------------------------------------------------------------------------------------------------


def _compare_growth(quick: bool) -> str:
    rows = []
    factors = (1, 2) if quick else (1, 2, 4, 8)
    for threads in sorted({resources.processors()} if quick else {1, resources.processors()}):
        for factor in factors:
            seconds, memory = _in_a_fresh_process(_time_epoch, factor, threads)
            images = 60_000 * factor
            rows.append(
                [
                    str(threads),
                    f"{images:,}",
                    f"{seconds:.1f}",
                    f"{1e6 * seconds / images:.1f}",
                    f"{memory / 2**20:,.0f}",
                    f"{factor * 60_000 * 28 * 28 / 2**20:,.0f}",
                ]
            )
    header = ["threads", "images", "epoch, s", "ms per 1,000 images", "peak memory, MiB", "images as uint8, MiB"]
    table = documents.table(header, rows, "lrrrrr")
    return f"### How the cost grows: one epoch of `baseline` over repeated images\n\n{table}"


def _time_epoch(factor: int, threads: int) -> tuple[float, int]:
    torch.set_num_threads(threads)
    train = datasets.load_mnist(DATA).train
    images, labels = train.images.repeat(factor, 1, 1, 1), train.labels.repeat(factor)
    run = trainer.train(recipes.get("baseline"), images, labels)
    return run.seconds, run.peak_memory


# ---- Checkpoints -----------------------------------------------------------------------------------------------------


def _time_checkpoints(quick: bool) -> str:
    rows = []
    for name in QUICK if quick else (*RECIPES, *LONG):
        chosen = recipes.get(name, epochs=1, batch_size=100)
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            kept = checkpoints.start(Path(folder))
            start = checkpoints.Checkpoint(vars(chosen), {"name": "noise", "sha256": ""}, {})

            def save(step: int, state: Any) -> None:
                started = time.perf_counter()
                kept.write(step, dataclasses.replace(start, training=state))  # noqa: B023
                seconds.append(time.perf_counter() - started)  # noqa: B023

            images = torch.randint(0, 256, (2000, 1, 28, 28), dtype=torch.uint8)
            trainer.train(chosen, images, torch.arange(2000) % 10, keeping=trainer.Keeping(save, steps=1))
            size = kept.newest_first()[0].stat().st_size
            kept.close()
        cost = statistics.median(seconds)
        rows.append([f"`{name}`", f"{size / 1024:,.0f}", f"{1000 * cost:.1f}", f"{cost / CHECKPOINT_INTERVAL:.3%}"])
    header = ["recipe", "KiB", "ms to write", f"of the time, one every {CHECKPOINT_INTERVAL} s"]
    return f"### Checkpoints\n\n{documents.table(header, rows, 'lrrr')}"


# ---- Several processes -----------------------------------------------------------------------------------------------


def _compare_processes(quick: bool) -> str:
    rows, alone = [], math.nan
    for recipe in QUICK[:1] if quick else ("baseline", "accurate-1k"):
        for count in (1, resources.processors()):
            rate = statistics.median(_run_processes(recipe, count) for _ in range(1 if quick else 3))
            alone = rate if count == 1 else alone
            rows.append(
                [f"`{recipe}`", str(count), f"{rate:,.0f}", f"{rate / alone:.2f}", f"{rate / alone / count:.0%}"]
            )
    header = ["recipe", "processes", "images/s", "times as fast as one", "efficiency"]
    title = "### Several processes of one thread each, the same batch between them (torchrun, gloo)"
    return f"{title}\n\n{documents.table(header, rows, 'lrrrr')}"


def _run_processes(recipe: str, count: int) -> float:
    """Images per second of an epoch that so many processes share."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        folders = ["--models-dir", f"{folder}/models", "--checkpoints-dir", f"{folder}/checkpoints"]
        options = ["--recipe", recipe, "--epochs", "1", "--no-gate", "--device", "cpu", "--dataset", "mnist"]
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
            _timed([*launcher, "-m", "mnist", "train", *options, *folders])
        card = json.loads(next(Path(folder).glob("models/*.json")).read_text(encoding="utf-8"))
    return float(card["training"]["images_per_second"])


# ---- Help ------------------------------------------------------------------------------------------------------------


def _in_a_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, called where no earlier call has left memory or caches, set up as the commands are."""
    with mock.patch.dict(os.environ, cli.THREADING), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _ratio(usual: list[float], ours: list[float]) -> str:
    return f"{statistics.median(usual) / statistics.median(ours):.2g}"


if __name__ == "__main__":
    main()
