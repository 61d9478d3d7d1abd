"""The commands. The only module that prints or exits.

torch takes seconds to import, so what needs it is imported by the command that needs it: ``--help`` and a misspelt
option answer at once.
"""

import dataclasses
import errno
import os
import signal
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from mnist import __version__, recipes
from mnist.errors import MnistError
from mnist.recipes import Recipe

if TYPE_CHECKING:
    from mnist.artifacts import Artifact
    from mnist.datasets import Dataset
    from mnist.metrics import Performance
    from mnist.trainer import Progress, Report, Run

BLOCKED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes
MNIST_EPOCH = 60_000  # images: what a recipe's epochs are meant for
THREADS = 2
THREADING = {"GOMP_SPINCOUNT": "10000"}  # read once, when torch loads its OpenMP

HINTS = {
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EEXIST: "a file is where a folder should be",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
}

out = Console(width=None if sys.stdout.isatty() else 100)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; bad input of any kind is one line on stderr and code 2."""
    try:
        sys.exit(cli.main(arguments, prog_name="mnist", standalone_mode=False))
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "mnist"
        message = f"{error.format_message().rstrip('.')} (see '{path} --help')"
    except (click.ClickException, MnistError) as error:
        message = str(error)
    except OSError as error:
        message = _explain(error)
    except click.Abort:
        click.echo("error: interrupted (nothing that was there is lost)", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"error: {message}", err=True)
    sys.exit(BAD_INPUT)


def _explain(error: OSError) -> str:
    what = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename else ""
    hint = HINTS.get(error.errno or 0)
    return f"{where}{what}" + (f" ({hint})" if hint else "")


# ---- Options that several commands share -----------------------------------------------------------------------------


def _recipe_options(*names: str) -> Decorator:
    """An option for each field of a recipe, or for those named; None stands for the recipe's own value."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        types = typing.get_type_hints(Recipe)
        for field in reversed(Recipe.options()):
            if not names or field.name in names:
                flag, meaning = f"--{field.name.replace('_', '-')}", field.metadata["help"]
                command = click.option(flag, field.name, type=types[field.name], help=meaning)(command)
        return command

    return decorate


def _data_options(default: str | None, meaning: str) -> Decorator:
    options = [
        click.option("--dataset", metavar="auto|mnist|subset", default=default, show_default=True, help=meaning),
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path),
            default="data",
            show_default=True,
            help="Where MNIST is kept, or put.",
        ),
        click.option(
            "--mirror",
            envvar="MNIST_MIRROR",
            show_envvar=True,
            help="A URL or a folder that holds the four .gz, asked before the public mirrors.",
        ),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_AUTO = "MNIST, the offline subset of 5,000 of its images, or (auto) the subset only where MNIST cannot be had."
_recipe_option = click.option(
    "--recipe", default="standard", show_default=True, metavar="|".join(recipes.RECIPES), help="What to start from."
)
_models_dir_option = click.option(
    "--models-dir",
    type=click.Path(path_type=Path),
    default="models",
    show_default=True,
    help="Where trained models are kept.",
)
_device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="What to compute on."
)


_policy_option = click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="A file of bounds like mnist/gate.toml, in place of that one.",
)
_reports_dir_option = click.option(
    "--reports-dir",
    type=click.Path(path_type=Path),
    default="reports",
    show_default=True,
    help="Where the gate writes its report, in a folder named like the model.",
)
_baseline_option = click.option(
    "--baseline", type=click.Path(path_type=Path), help="An older model: the new one must not be worse."
)


def _load_dataset(name: str, data_dir: Path, mirror: str | None) -> "Dataset":
    from mnist import datasets

    return datasets.load(name, data_dir, mirror=mirror, notify=_notify)


def _import_torch() -> None:
    """Import torch, which takes seconds and does not survive Ctrl-C meanwhile: that is put off until it is done.

    Two threads, unless OMP_NUM_THREADS says otherwise: these networks gain little from more. A thread that waits for
    the other spins, by default for so long that beside any other busy process both stand still: here only briefly.
    """
    interrupted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupted.append(number))
    os.environ.update(THREADING | os.environ)
    try:
        import torch
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(THREADS, torch.get_num_threads()))


def _probe(folder: Path) -> None:
    """Fail now rather than after the training, if a folder cannot be made or written to."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _notify(line: str) -> None:
    click.secho(line, err=True, **({"fg": "yellow", "bold": True} if line.startswith("WARNING") else {"dim": True}))


# ---- Commands --------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Train a classifier of MNIST's digits with under 25,000 parameters, and judge whether it may ship.

    \b
    mnist train     get the data, train, save, and judge
    mnist gate      judge the newest model; exit code 1 if it must not ship

    Bad input of any kind is one line on stderr and exit code 2.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@_data_options("auto", _AUTO)
def data(dataset: str, data_dir: Path, mirror: str | None) -> None:
    """Get the data and verify it; what is there and intact is not fetched again."""
    _import_torch()
    loaded = _load_dataset(dataset, data_dir, mirror)
    table = _table("digit", *(split.description for split in (loaded.train, loaded.test)))
    counts = [split.labels.bincount(minlength=10).tolist() for split in (loaded.train, loaded.test)]
    for digit, row in enumerate(zip(*counts, strict=True)):
        table.add_row(str(digit), *(f"{count:,}" for count in row))
    out.print(table)
    click.echo(f"SHA-256 of all images and labels: {loaded.fingerprint()}")


@cli.command()
@_recipe_option
@_recipe_options()
@_data_options("auto", _AUTO)
@_models_dir_option
@_device_option
@click.option("--gate/--no-gate", "judged", default=True, show_default=True, help="Whether to judge the model.")
@_policy_option
@_baseline_option
@_reports_dir_option
def train(
    recipe: str,
    dataset: str,
    data_dir: Path,
    mirror: str | None,
    models_dir: Path,
    device: str,
    judged: bool,
    policy: Path | None,
    baseline: Path | None,
    reports_dir: Path,
    **choices: Any,
) -> int:
    """Train a model, save it with its model card, and judge it on images it has not seen.

    The exit code is 1 if the model must not ship; it is saved all the same. Every option of the recipe that is not
    given stays as the recipe has it. On the offline subset a recipe runs for as many more epochs as make the same
    number of steps, unless --epochs is given.
    """
    chosen = recipes.get(recipe, **_given(choices))
    _probe(models_dir)
    if judged:
        _probe(reports_dir)
    _import_torch()
    from mnist import artifacts, metrics, trainer

    target = trainer.select_device(device)
    _read_rules(policy, baseline)
    loaded = _load_dataset(dataset, data_dir, mirror)
    if choices["epochs"] is None:
        chosen = dataclasses.replace(chosen, epochs=chosen.epochs * MNIST_EPOCH / len(loaded.train))
    with _show_progress() as report:
        run = trainer.train(chosen, loaded.train.images, loaded.train.labels, device=target, report=report)
    performance = metrics.evaluate(run.model, loaded.test)
    path = artifacts.save(
        run.model,
        models_dir,
        recipe=dataclasses.asdict(chosen),
        dataset={
            "name": loaded.name,
            "train": loaded.train.description,
            "test": loaded.test.description,
            "sha256": loaded.fingerprint(),
        },
        training={
            "device": target.type,
            "images": run.images,
            "seconds": run.seconds,
            "startup_seconds": run.startup,
            "images_per_second": run.images_per_second,
            "peak_memory_bytes": run.peak_memory,
            "cpu_use": run.cpu_use,
        },
        measured=dataclasses.asdict(performance),
    )
    out.print(_training_table(chosen, loaded, run, performance))
    if not judged:
        click.echo(path)
        return 0
    return _judge(artifacts.load(path), loaded, device, policy, baseline, reports_dir)


@cli.command()
@_recipe_option
@_recipe_options("rotation", "translation", "scaling", "seed")
@_data_options("auto", _AUTO)
@click.option("--columns", type=click.IntRange(5, 20), default=10, show_default=True, help="Originals shown.")
@click.option("--draws", type=click.IntRange(1, 20), default=4, show_default=True, help="Versions of each original.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="figures/augmentation_samples.png",
    show_default=True,
    help="The picture to write.",
)
def augment(
    recipe: str,
    dataset: str,
    data_dir: Path,
    mirror: str | None,
    columns: int,
    draws: int,
    output: Path,
    **choices: Any,
) -> None:
    """Draw a picture: digits as they are, and below them as training sees them."""
    chosen = recipes.get(recipe, **_given(choices))
    if output.suffix != ".png":
        raise MnistError(f"--output must end in .png, not {output}")
    _import_torch()
    import torch

    from mnist import figures, transforms

    split = _load_dataset(dataset, data_dir, mirror).train
    generator = torch.Generator().manual_seed(chosen.seed)
    shuffled = torch.randperm(len(split), generator=generator)
    of_digit = [shuffled[split.labels[shuffled] == digit] for digit in range(10)]
    picked = torch.stack([of_digit[column % 10][column // 10] for column in range(columns)])
    originals = transforms.to_float(split.images[picked])
    augmented = transforms.random_affine(
        originals.repeat(draws, 1, 1, 1), chosen.rotation, chosen.translation, chosen.scaling, generator
    )
    strength = (
        f"rotation ±{chosen.rotation:g}°, shift ±{chosen.translation:.0%}, scale ±{chosen.scaling:.0%}; "
        f"{split.description}"
    )
    figures.draw_augmentation(
        originals[:, 0], augmented.view(draws, columns, 28, 28), split.labels[picked], strength, output
    )
    click.echo(output)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@_data_options(None, "What to measure on. [default: the data that the model was trained for]")
@_models_dir_option
@_device_option
@_policy_option
@_baseline_option
@_reports_dir_option
def gate(
    model: Path | None,
    dataset: str | None,
    data_dir: Path,
    mirror: str | None,
    models_dir: Path,
    device: str,
    policy: Path | None,
    baseline: Path | None,
    reports_dir: Path,
) -> int:
    """Measure MODEL (default: the newest) on images it has not seen, and judge every criterion.

    The exit code is 0 if it may ship, and 1 if it must not. The report is a page for people, report.html, and
    report.json for programs. In GitHub Actions the verdicts also go to the job summary, and what blocks is annotated.
    """
    _import_torch()
    from mnist import artifacts

    path = model or artifacts.newest(models_dir)
    if path is None:
        raise MnistError(f"there is no model in {models_dir} (train one: make train, or mnist train)")
    artifact = artifacts.load(path)
    _probe(reports_dir)
    _read_rules(policy, baseline)
    loaded = _load_dataset(dataset or _trained_on(artifact), data_dir, mirror)
    return _judge(artifact, loaded, device, policy, baseline, reports_dir)


def _trained_on(artifact: "Artifact") -> str:
    return str(artifact.card.dataset["name"]) if artifact.card else "mnist"


def _read_rules(policy: Path | None, baseline: Path | None) -> None:
    """Fail now rather than after the training or the download, if the policy or the baseline cannot be read."""
    from mnist import artifacts
    from mnist import gate as gates

    gates.load_policy(policy or gates.POLICY)
    if baseline:
        artifacts.load(baseline)


def _judge(
    artifact: "Artifact",
    dataset: "Dataset",
    device: str,
    policy: Path | None,
    baseline: Path | None,
    reports_dir: Path,
) -> int:
    """Measure and judge a model, show and write the report; the exit code."""
    from mnist import artifacts, metrics, report, trainer
    from mnist import gate as gates

    target = trainer.select_device(device)
    may_have_seen = dataset.name == "subset" and _trained_on(artifact) != "subset"
    if may_have_seen:
        _notify(
            "WARNING: the model may have been trained on these very images: the subset is part of MNIST's training set"
        )
    recipe = artifact.card.recipe.get("name") if artifact.card else None
    rules = gates.load_policy(policy or gates.POLICY, recipe=recipe, dataset=dataset.name)
    measurement = metrics.measure(
        artifact.model.to(target),
        artifact.initial_model(),
        dataset.test,
        dataset.train,
        bytes=artifact.bytes,
        possibly_seen=len(dataset.test) if may_have_seen else 0,
    )
    comparison = None
    if baseline:
        previous = metrics.predict_split(artifacts.load(baseline).model.to(target), dataset.test)
        comparison = gates.compare(dataset.test.labels, measurement.logits, previous)
    verdicts = gates.judge(measurement, rules, comparison)
    content = report.build(artifact, dataset.test, measurement, verdicts, baseline, comparison)
    _show_verdicts(content)
    click.echo(f"report: {report.write(content, dataset.test, measurement, reports_dir / artifact.path.stem)}")
    if "GITHUB_ACTIONS" in os.environ:
        _tell_github(content, report.markdown(content))
    return BLOCKED if gates.blocked(verdicts) else 0


def _given(choices: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in choices.items() if value is not None}


# ---- What is shown ---------------------------------------------------------------------------------------------------


@contextmanager
def _show_progress() -> "Iterator[Report]":
    """A progress bar on a terminal; elsewhere a plain line for every tenth of the way."""
    if not out.is_terminal:
        tenths_shown = 0

        def write_line(progress: "Progress") -> None:
            nonlocal tenths_shown
            tenths = 10 * progress.step // progress.steps
            if tenths > tenths_shown:
                tenths_shown = tenths
                click.echo(_describe(progress))

        yield write_line
        return

    with ProgressBar(BarColumn(None), TextColumn("{task.description}"), console=out) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda progress: bar.update(
            task, completed=progress.step, total=progress.steps, description=_describe(progress)
        )


def _describe(progress: "Progress") -> str:
    return (
        f"epoch {progress.epoch}/{progress.epochs}  step {progress.step:,}/{progress.steps:,}  "
        f"loss {progress.loss:.3f}  accuracy {progress.accuracy:.1%}  "
        f"{progress.images_per_second:,.0f} images/s  {progress.seconds_left:.0f} s left"
    )


def _table(*columns: str, title: str | None = None, style: box.Box = box.SIMPLE_HEAD) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=style)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _training_table(recipe: Recipe, dataset: "Dataset", run: "Run", performance: "Performance") -> Table:
    from mnist import architecture

    table = _table("measured on", performance.measured_on, title=f"Recipe {recipe.name}, seed {recipe.seed}")
    table.add_row("accuracy", f"{performance.accuracy:.2%}", style="bold")
    for digit, accuracy in enumerate(performance.per_digit):
        table.add_row(f"accuracy on the {digit}s", f"{accuracy:.2%}")
    table.add_section()
    table.add_row("trained on", dataset.train.description)
    table.add_row("parameters", f"{architecture.count_parameters(run.model):,}")
    table.add_row("training time", f"{run.seconds:.1f} s for {recipe.epochs:g} epoch{'s' * (recipe.epochs != 1)}")
    table.add_row("speed", f"{run.images_per_second:,.0f} images/s")
    table.add_row("peak memory", f"{run.peak_memory / 2**20:,.0f} MiB")
    table.add_row("CPU use", f"{run.cpu_use:.2f} cores")
    return table


def _show_verdicts(report: dict[str, Any]) -> None:
    """Every verdict, in words those that are not a pass, what changed since the baseline, and the decision."""
    verdicts = report["verdicts"]
    click.echo(f"{report['model']}, measured on: {report['measured_on']}")
    table = Table("verdict", "criterion", box=box.SIMPLE_HEAD)
    for column in ("measured", "bound"):
        table.add_column(column, justify="right")
    table.add_column("95 % interval, and of what")
    for verdict in sorted(verdicts, key=lambda verdict: bool(verdict["outcome"] == "pass")):
        shown = verdict["shown"]
        table.add_row(
            "BLOCK" if verdict["outcome"] == "block" else verdict["outcome"],
            verdict["criterion"],
            shown["figure"],
            shown["bound"],
            ", ".join(filter(None, [shown["interval"], verdict["what"]])),
            style="bold red" if verdict["blocks"] else "yellow" if verdict["outcome"] != "pass" else "",
        )
    out.print(table)

    doubtful = [verdict for verdict in verdicts if verdict["outcome"] != "pass"]
    for verdict in doubtful:
        click.echo(_explain_verdict(verdict))
    if against := report["comparison"]:
        for what in ("lost", "gained"):
            counts = against[f"{what}_per_digit"]
            digits = ", ".join(f"{count} of digit {digit}" for digit, count in enumerate(counts) if count)
            click.echo(f"Against {against['previous']}: {sum(counts)} images {what}{f' ({digits})' if digits else ''}")

    blocking = [verdict["criterion"] for verdict in verdicts if verdict["blocks"]]
    if blocking:
        click.secho(f"BLOCKED by: {', '.join(blocking)}", bold=True, fg="red")
    elif doubtful:
        click.secho(f"SHIP, with {len(doubtful)} of {len(verdicts)} criteria undecided", bold=True, fg="yellow")
    else:
        click.secho(f"SHIP: all {len(verdicts)} criteria hold", bold=True, fg="green")


def _explain_verdict(verdict: dict[str, Any]) -> str:
    """Why a verdict is not a pass, in one line."""
    shown = verdict["shown"]
    figure = " ".join(
        filter(None, [shown["figure"], f"({shown['interval']})" * bool(shown["interval"]), verdict["what"]])
    )
    if verdict["outcome"] == "undecided":
        doubt = "too few images to tell" + (
            "" if verdict["blocks"] else "; the policy lets that pass with this WARNING"
        )
    else:
        doubt = "not measured" if verdict["value"] is None else "not met"
    return f"{verdict['criterion']}: {figure}, to be {shown['bound']}: {doubt} ({verdict['reason']})"


def _tell_github(report: dict[str, Any], summary: str) -> None:
    """Annotate what is not a pass, and add the verdicts to the job's summary."""
    for verdict in report["verdicts"]:
        if verdict["outcome"] != "pass":
            level = "error" if verdict["blocks"] else "warning"
            click.echo(f"::{level} title={verdict['criterion']}::{_escape(_explain_verdict(verdict))}")
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(summary)


def _escape(message: str) -> str:
    """As GitHub's workflow commands want it."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
