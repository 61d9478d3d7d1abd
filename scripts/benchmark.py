"""Time the commands that users wait for, and compare them with a conventional MNIST script and the machine's limits.

    make bench                    under a quarter of an hour on two idle cores
    make bench ARGS=--quick       two minutes, one round
    make bench ARGS=--accuracy    also time `accurate`, and measure the accuracy of several seeds of each recipe; update
                                  docs/benchmarks.md
    make bench BASE=COMMIT        compare this commit with the working tree, and print ratios; ARGS as above

The conventional script (scripts/conventional.py) and the recipes run alternately, each in a separate process, so that a
change in the machine's speed affects all of them. Times are medians, with minimum and maximum in parentheses.
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import documents
import machine
import samples
import seeds
import step_time
import torch
import waiting
from arguments import positive
from waiting import CONVENTIONAL, Accuracies, Checkout, CommitError, Times

from mnist import architecture, checkpointing, datasets, operations, recipes, resources, trainer
from mnist.cli import process
from mnist.storage import checkpoints

DOCUMENT = documents.DOCS / "benchmarks.md"
TIMED_RECIPES = ("baseline", "fast")  # `standard` is timed with `make train`
CHECKPOINT_RECIPES = ("baseline", "standard", "fast", "accurate")
TRAINING_IMAGES = 60_000
ALL_IMAGES = 70_000
PIXELS_PER_IMAGE = 28 * 28
SECONDS_PER_CHECKPOINT = 10  # default interval of `mnist train`


def main() -> None:
    """Measure the working tree, or compare it with another commit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, fewer recipes and shorter measurements")
    parser.add_argument("--rounds", type=positive, default=3, help="runs of each command (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="device for the recipes (default: %(default)s)")
    parser.add_argument("--accuracy", action="store_true", help="also measure the accuracy of several seeds")
    parser.add_argument("--base", metavar="COMMIT", help="compare with this commit; update no document")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    try:
        waiting.WORKING_TREE.check()
        if options.base:
            compare(options.base, rounds, options.device, options.accuracy, options.quick)
        else:
            measure_working_tree(rounds, options.device, options.accuracy, options.quick)
    except CommitError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:  # the command has printed its own error message
        sys.exit(f"error: a command failed with exit code {error.returncode}: {shlex.join(error.cmd)}")


def measure_working_tree(rounds: int, device: str, accuracy: bool, quick: bool) -> None:
    """Measure and print every section; update the document if all sections were measured in full."""
    rates = {threads: machine.matrix_multiplication_rate(threads) for threads in sorted({1, resources.processors()})}
    parts = []
    for measure in (
        lambda: machine.describe(rates),
        lambda: measure_rounds(rounds, device, rates, quick, accuracy),
        *([lambda: measure_accuracy([waiting.WORKING_TREE], device, quick)] if accuracy else []),
        measure_steps,
        lambda: compare_inference(rates[1], quick),
        lambda: _measure_scaling(quick),
        lambda: _compare_processes(quick),
        lambda: measure_checkpoints(quick),
    ):
        parts.append(measure())
        print(parts[-1], "\n", flush=True)
    if accuracy and not quick:
        documents.replace_section(DOCUMENT, "benchmark", "\n\n".join(parts))


# ---- Two commits -----------------------------------------------------------------------------------------------------


def compare(commit: str, rounds: int, device: str, accuracy: bool, quick: bool) -> None:
    """Time the commands of a commit and of the working tree in turn, and print a table."""
    with waiting.checked_out(commit) as base:
        checkouts = [base, waiting.WORKING_TREE]
        times: dict[str, list[Times]] = {checkout.name: [] for checkout in checkouts}
        accuracies: Accuracies = {checkout.name: {name: [] for name in TIMED_RECIPES} for checkout in checkouts}
        for seed in range(rounds):
            for checkout in waiting.in_turn(checkouts, seed):
                timed, runs = waiting.time_round(checkout, seed, device)
                times[checkout.name].append(timed)
                for name in TIMED_RECIPES:
                    accuracies[checkout.name][name].append(runs[name]["accuracy"])
        print(f"### Seconds ({device}; rounds: {rounds})\n\n{waiting.waiting_table(times)}\n")
        print(
            f"Ratio: working tree to {base.name} in the same round. Under 1, the working tree is faster.\n", flush=True
        )
        print(measure_accuracy(checkouts, device, quick) if accuracy else waiting.accuracy_table(accuracies))


def measure_accuracy(checkouts: Sequence[Checkout], device: str, quick: bool) -> str:
    """Train several seeds of each recipe in each checkout; return a table of the test accuracy."""
    accuracies: Accuracies = {checkout.name: {} for checkout in checkouts}
    for recipe in TIMED_RECIPES if quick else seeds.RECIPES:
        for seed in range(1 if quick else seeds.SEEDS):
            for checkout in checkouts:
                with tempfile.TemporaryDirectory() as folder:
                    run = checkout.train(recipe, Path(folder), "--no-gate", seed=seed, device=device)
                accuracies[checkout.name].setdefault(recipe, []).append(run["accuracy"])
    table = waiting.accuracy_table(accuracies)
    return f"### Accuracy on the 10,000 test images: mean (range) of the seeds\n\n{table}"


# ---- Training --------------------------------------------------------------------------------------------------------


def measure_rounds(rounds: int, device: str, rates: dict[int, float], quick: bool, accurate: bool) -> str:
    """Time the commands and the conventional script in rounds; return tables of times, speedups and memory use."""
    images = 3_000 if quick else 12_000
    choices = (0, resources.processors()) if quick else range(resources.processors() + 1)
    workers = min(choices, key=lambda count: _run_conventional(count, images=images)["seconds"])
    times: list[Times] = []
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (CONVENTIONAL, *TIMED_RECIPES)}
    imports = []
    for seed in range(rounds):
        runs[CONVENTIONAL].append(_run_conventional(workers, seed=seed))
        timed, trained = waiting.time_round(waiting.WORKING_TREE, seed, device)
        times.append({**timed, CONVENTIONAL: runs[CONVENTIONAL][-1]["seconds"]})
        for name in TIMED_RECIPES:
            runs[name].append(trained[name])
        imports.append(_measure_import())
    if accurate:
        with tempfile.TemporaryDirectory() as folder:
            runs["accurate"] = [waiting.WORKING_TREE.train("accurate", Path(folder), "--no-gate", device=device)]
    return (
        f"### The commands that people wait for ({device}; rounds: {rounds})\n\n"
        f"{waiting.waiting_table({'time': times})}\n\n{_describe_training(runs, imports, workers, rates, device)}"
    )


def _describe_training(
    runs: dict[str, list[dict[str, Any]]],
    imports: list[tuple[float, int]],
    workers: int,
    rates: dict[int, float],
    device: str,
) -> str:
    rows = []
    conventional_seconds = [run["seconds"] for run in runs[CONVENTIONAL]]
    conventional_process = [run["process"] for run in runs[CONVENTIONAL]]
    for name, results in runs.items():
        seconds, process = ([run[key] for run in results] for key in ("seconds", "process"))
        gflop = _floating_point_operations("baseline" if name == CONVENTIONAL else name) / 1e9
        rows.append(
            [
                f"`{name}`" if name != CONVENTIONAL else f"{CONVENTIONAL}, {workers} workers",
                documents.spread(seconds, 2),
                _speedup(conventional_seconds, seconds),
                documents.spread(process, 1),
                _speedup(conventional_process, process),
                documents.spread([100 * run["accuracy"] for run in results], 2, " %", statistics.mean),
                f"{gflop:.0f}",
                f"{gflop / statistics.median(seconds) / max(rates.values()):.0%}",
            ]
        )
    header = ["", "training, s", "speedup", "process, s", "speedup", "accuracy", "GFLOP", "of matmul rate"]
    comparison = documents.table(header, rows, "lrrrrrrr")

    startup_seconds = [run["startup"] for name in TIMED_RECIPES for run in runs[name]]
    import_seconds = [seconds for seconds, _ in imports]
    reference_bytes = statistics.median(memory for _, memory in imports) + ALL_IMAGES * PIXELS_PER_IMAGE * 4
    peaks = documents.table(
        ["", "peak memory, MiB", "relative to torch and data"],
        [
            [
                f"`{name}`",
                documents.spread([run["memory"] / 2**20 for run in runs[name]], 0),
                f"{statistics.median(run['memory'] for run in runs[name]) / reference_bytes:.2f}",
            ]
            for name in runs
            if name != CONVENTIONAL
        ],
        "lrr",
    )
    return (
        f"### Training ({device}; rounds: {len(imports)})\n\n{comparison}\n\n"
        '"Training" is the time spent in the training loop. "Process" is the time from start to exit: imports, data, '
        'training, evaluation, saving. "GFLOP" counts two operations per multiply-accumulate of convolutions and '
        "linear layers, and three passes per step.\n\n"
        "### Startup and memory\n\n"
        f"`mnist train` takes {documents.spread(startup_seconds, 2)} s from its start to the end of its first step; "
        f"`python -c 'import torch'` takes {documents.spread(import_seconds, 2)} s.\n\n{peaks}\n\n"
        f'"Torch and data" is the memory of a process after `import torch`, plus all {ALL_IMAGES:,} images as float32: '
        f"{reference_bytes / 2**20:,.0f} MiB."
    )


def measure_steps() -> str:
    """Return a table with the time of a training step and of its kernels."""
    rows = []
    for name in TIMED_RECIPES:
        step, kernels = in_new_process(step_time.measure, name)
        rows.append([f"`{name}`", f"{step:.2f}", f"{kernels:.2f}", f"{step / kernels:.2f}"])
    return (
        "### Training step, one thread\n\n"
        + documents.table(["", "step, ms", "kernels, ms", "ratio"], rows, "lrrr")
        + "\n\nKernels are the PyTorch operations that compute values, timed by the PyTorch profiler. The rest of a "
        "step is Python, autograd, dispatch and memory allocation."
    )


def _run_conventional(workers: int, images: int = TRAINING_IMAGES, seed: int = 0) -> dict[str, Any]:
    """Run the conventional script; return its training time, its accuracy, and the total time of the process."""
    script = [sys.executable, str(documents.ROOT / "scripts" / "conventional.py")]
    command = [*script, "--workers", str(workers), "--images", str(images), "--seed", str(seed)]
    seconds, output = _timed(command)
    return {**json.loads(output), "process": seconds}


def _measure_import() -> tuple[float, int]:
    """Return the time that `import torch` takes in seconds, and the memory that a process uses after it in bytes."""
    print_memory = "import torch, psutil; print(psutil.Process().memory_info().rss)"
    _, memory = _timed([sys.executable, "-c", print_memory])
    seconds, _ = _timed([sys.executable, "-c", "import torch"])
    return seconds, int(memory)


def _timed(command: list[str]) -> tuple[float, str]:
    """Run a program; return its run time in seconds and its output."""
    started = time.perf_counter()
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8").stdout
    return time.perf_counter() - started, output


def _floating_point_operations(recipe: str) -> float:
    """Return the operation count of a training run: two per multiply-accumulate, with three passes per step."""
    chosen = recipes.get(recipe)
    model = architecture.build(chosen.architecture, torch.Generator())
    per_view = operations.count_multiply_accumulates(model) / model.views  # training evaluates one view of an image
    return 2 * 3 * per_view * chosen.epochs * TRAINING_IMAGES


# ---- Inference -------------------------------------------------------------------------------------------------------


def compare_inference(rate: float, quick: bool) -> str:
    """Time the predictions of every network; return a Markdown table.

    Args:
        rate: rate of matrix multiplication in GFLOP/s, as `machine.matrix_multiplication_rate` returns it.
    """
    rows = []
    names = TIMED_RECIPES if quick else recipes.RECIPES
    for name in dict.fromkeys(recipes.get(name).architecture for name in names):
        for batch in (1, 1000):
            rates = in_new_process(time_inference, name, batch, 0.2 if quick else 0.5, rate)
            rows.append([f"`{name}`", str(batch), *(f"{value:,.0f}" for value in rates)])
    header = ["network", "batch", "eager", "ours", "limit"]
    return (
        f"### Inference, images/s, one thread\n\n{documents.table(header, rows, 'lrrrr')}\n\n"
        '"Eager" is a call of the unmodified model on preprocessed images. "Ours" is `architecture.predict`, in '
        f"channels-last layout and with at most {architecture.IMAGES_PER_BATCH} images at once. "
        '"Limit" counts only the multiply-accumulates of all views, at the rate of matrix multiplication. '
        "A network whose views share computations can exceed it."
    )


def time_inference(name: str, batch: int, seconds: float, rate: float) -> tuple[float, float, float]:
    """Return the images/s of a plain call, of `architecture.predict`, and at the rate of matrix multiplication."""
    torch.set_num_threads(1)
    model = architecture.build(name, torch.Generator()).eval()
    images = torch.rand(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def eager() -> None:
        model(images)

    eager_rate = batch / _seconds_per_call(eager, seconds)
    model = model.to(memory_format=torch.channels_last)
    our_rate = batch / _seconds_per_call(lambda: architecture.predict(model, images), seconds)
    return eager_rate, our_rate, rate * 1e9 / (2 * operations.count_multiply_accumulates(model))


def _seconds_per_call(call: Callable[[], object], seconds: float) -> float:
    """Return the median time of the calls that fit into ``seconds``, after a warm-up of a tenth of this time."""
    spent: list[float] = []
    for budget in (seconds / 10, seconds):
        spent.clear()
        while sum(spent) < budget:
            started = time.perf_counter()
            call()
            spent.append(time.perf_counter() - started)
    return statistics.median(spent)


# ---- Scaling ---------------------------------------------------------------------------------------------------------


def _measure_scaling(quick: bool) -> str:
    rows = []
    factors = (1, 2) if quick else (1, 2, 4)
    for threads in sorted({resources.processors()} if quick else {1, resources.processors()}):
        for factor in factors:
            seconds, memory = in_new_process(_time_epoch, factor, threads)
            images = TRAINING_IMAGES * factor
            rows.append(
                [
                    str(threads),
                    f"{images:,}",
                    f"{seconds:.1f}",
                    f"{1e6 * seconds / images:.1f}",
                    f"{memory / 2**20:,.0f}",
                    f"{images * PIXELS_PER_IMAGE / 2**20:,.0f}",
                ]
            )
    header = ["threads", "images", "epoch, s", "ms per 1,000 images", "peak memory, MiB", "images as uint8, MiB"]
    table = documents.table(header, rows, "lrrrrr")
    return f"### Scaling with the number of images: one epoch of `baseline` on repeated images\n\n{table}"


def _time_epoch(factor: int, threads: int) -> tuple[float, int]:
    """Train an epoch on ``factor`` copies of the training set; return the time (s) and the peak memory (bytes)."""
    torch.set_num_threads(threads)
    train = datasets.load_mnist(waiting.DATA_FOLDER).train
    images, labels = train.images.repeat(factor, 1, 1, 1), train.labels.repeat(factor)
    cost = trainer.train(recipes.get("baseline"), images, labels).usage
    return cost.seconds, cost.peak_memory


# ---- Checkpoints -----------------------------------------------------------------------------------------------------


def measure_checkpoints(quick: bool) -> str:
    """Time how long it takes to write checkpoints; return a Markdown table."""
    rows = []
    for name in TIMED_RECIPES if quick else CHECKPOINT_RECIPES:
        chosen = recipes.get(name, epochs=1, batch_size=100)
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            run = checkpoints.start(Path(folder))
            checkpoint = samples.checkpoint(chosen)

            def save(step: int, state: Any) -> None:
                started = time.perf_counter()
                run.write(step, dataclasses.replace(checkpoint, training=state))  # noqa: B023
                seconds.append(time.perf_counter() - started)  # noqa: B023

            images = torch.randint(
                0, 256, (2000, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
            )
            trainer.train(
                chosen, images, torch.arange(2000) % 10, checkpointing=checkpointing.Checkpointing(save, steps=1)
            )
            size = run.newest_first()[0].stat().st_size
            run.close()
        cost = statistics.median(seconds)
        rows.append([f"`{name}`", f"{size / 1024:,.0f}", f"{1000 * cost:.1f}", f"{cost / SECONDS_PER_CHECKPOINT:.3%}"])
    header = ["recipe", "KiB", "ms to write", f"share of the time at one every {SECONDS_PER_CHECKPOINT} s"]
    return f"### Checkpoints\n\n{documents.table(header, rows, 'lrrr')}"


# ---- Several processes -----------------------------------------------------------------------------------------------


def _compare_processes(quick: bool) -> str:
    rows = []
    single = math.nan
    for recipe in TIMED_RECIPES[:1] if quick else ("baseline", "accurate-1k"):
        for count in (1, resources.processors()):
            rate = _run_processes(recipe, count)
            single = rate if count == 1 else single
            rows.append(
                [f"`{recipe}`", str(count), f"{rate:,.0f}", f"{rate / single:.2f}", f"{rate / single / count:.0%}"]
            )
    header = ["recipe", "processes", "images/s", "speedup", "efficiency"]
    title = "### Several processes with one thread each, which share every batch (torchrun, gloo)"
    return f"{title}\n\n{documents.table(header, rows, 'lrrrr')}"


def _run_processes(recipe: str, count: int) -> float:
    """Return the training speed, in images per second, of an epoch that ``count`` processes share."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        folders = ["--models-dir", f"{folder}/models", "--checkpoints-dir", f"{folder}/checkpoints"]
        options = ["--recipe", recipe, "--epochs", "1", "--no-gate", "--device", "cpu", "--dataset", "mnist"]
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
            _timed([*launcher, "-m", "mnist", "train", *options, *folders])
        card = json.loads(next(Path(folder).glob("models/*.json")).read_text(encoding="utf-8"))
    return float(card["training"]["images_per_second"])


# ---- Helpers ---------------------------------------------------------------------------------------------------------


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process (without the caches of this process) with the OpenMP settings of `mnist`."""
    with mock.patch.dict(os.environ, process.OPENMP_SETTINGS), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _speedup(conventional: list[float], ours: list[float]) -> str:
    return f"{statistics.median(conventional) / statistics.median(ours):.2g}"


if __name__ == "__main__":
    main()
