"""The commands. The only module that prints or exits.

torch takes seconds to import, so what needs it is imported by the command that needs it: ``--help`` and a misspelt
option answer at once.
"""

import codecs
import dataclasses
import errno
import glob
import io
import math
import os
import signal
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource
from rich import box
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from mnist import __version__, recipes, resources
from mnist.errors import MnistError
from mnist.recipes import Recipe

if TYPE_CHECKING:
    import torch

    from mnist.datasets import Dataset
    from mnist.deploy.inference import Prediction
    from mnist.distributed import Group
    from mnist.metrics import Performance
    from mnist.storage.artifacts import Artifact
    from mnist.storage.checkpoints import Checkpoint, Folder
    from mnist.trainer import Progress, Report, Run, State

BLOCKED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143  # exit codes
MNIST_EPOCH = 60_000  # images: what a recipe's epochs are meant for
THREADS = 2
SHOWN = 64  # images that `mnist predict --show` draws
SEEN = Path("figures/seen.png")  # where to, unless another path is given
MANY = 50  # images that there is a progress bar for
THREADING = {"GOMP_SPINCOUNT": "10000"}  # read once, when torch loads its OpenMP

SECONDS_TO_WATCH = 0.5  # of training, before the load of the machine is judged

# What to say if `mnist train` blocks a model of that recipe.
IF_BLOCKED = {
    "baseline": "About half of the honest models of baseline are blocked: one epoch at a constant learning rate leaves "
    "some digit near its bound. Next: make train RECIPE=standard, or make train RECIPE=baseline EPOCHS=3",
}

HINTS = {
    errno.ENOSPC: "free some space there, or choose another folder",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "choose a folder that you may write to, or change its permissions",
    errno.EEXIST: "a file is where a folder should be",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
}

# How symbols are written on a stream that cannot encode them, such as a terminal in the C locale.
SYMBOLS = {"°": " deg", "±": "+/-", "×": "x", "→": "->", "–": "-", "—": "-", "…": "..."}  # noqa: RUF001

out = Console(width=None if sys.stdout.isatty() else 100)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its code; bad input of any kind is one line on stderr and code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mnist.symbols")
    told_to_leave: list[int] = []

    def leave(number: int, frame: object) -> NoReturn:
        told_to_leave.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
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
        _print("error: interrupted (nothing that was there is lost)", err=True)
        sys.exit(TERMINATED if told_to_leave else INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)
    _print(f"error: {message}", err=True)
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


_OTHERS = "Also fashion-mnist, kmnist, emnist-digits, qmnist, or a folder of images in folders 0 to 9."


def _path_option(flag: str, default: str, meaning: str) -> Decorator:
    return click.option(flag, type=click.Path(path_type=Path), default=default, show_default=True, help=meaning)


def _data_options(default: str | None, meaning: str) -> Decorator:
    options: list[Decorator] = [
        click.option(
            "--dataset",
            metavar="auto|mnist|subset|...",
            default=default,
            show_default=True,
            help=f"{meaning} {_OTHERS}",
        ),
        _path_option("--data-dir", "data", "Where MNIST is kept, or put."),
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
_BY_DEFAULT = "by default the data that the model was trained for."
_model_argument = click.argument("model", type=click.Path(path_type=Path), required=False)
_recipe_option = click.option(
    "--recipe", default="standard", show_default=True, metavar="|".join(recipes.RECIPES), help="What to start from."
)
_models_dir_option = _path_option("--models-dir", "models", "Where trained models are kept.")
_device_option = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda|mps", help="What to compute on."
)


_policy_option = click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="A file of bounds like mnist/gate.toml, in place of that one.",
)
_reports_dir_option = _path_option(
    "--reports-dir", "reports", "Where the gate writes its report, in a folder named like the model."
)
_baseline_option = click.option(
    "--baseline", type=click.Path(path_type=Path), help="An older model: the new one must not be worse."
)


def _load_dataset(name: str, data_dir: Path, mirror: str | None, *, silent: bool = False) -> "Dataset":
    from mnist import datasets

    return datasets.load(name, data_dir, mirror=mirror, notify=(lambda line: None) if silent else _notify)


def _import_torch() -> None:
    """Import torch, which takes seconds and does not survive a signal meanwhile: that is put off until it is done.

    Two threads, unless OMP_NUM_THREADS says otherwise: these networks gain little from more. A thread that waits for
    the other spins, by default for so long that beside any other busy process both stand still: here only briefly.
    """
    os.environ.update(THREADING | os.environ)
    with _Signals() as signals:
        import torch
    signals.pass_on()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(THREADS, torch.get_num_threads(), resources.processors())))


class _Signals:
    """Holds back Ctrl-C and SIGTERM while it is entered: the first is noted, a second interrupts all the same."""

    def __enter__(self) -> "_Signals":
        self.heard: int | None = None
        # One that is ignored, as a shell's background job ignores Ctrl-C, stays so.
        heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        if self.heard is not None:
            raise KeyboardInterrupt
        self.heard = number

    def pass_on(self) -> None:
        """What was noted, now happens."""
        if self.heard is not None:
            signal.raise_signal(self.heard)


def _probe(folder: Path) -> None:
    """Fail now rather than after the training, if a folder cannot be made or written to."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _print(message: object, *, err: bool = False, **style: Any) -> None:
    """Print a line on stdout, or on stderr, as it stands: click would bypass a stream that only takes ASCII."""
    click.secho(message, file=sys.stderr if err else sys.stdout, **style)


def _replace_symbols(error: UnicodeError) -> tuple[str, int]:
    """Handle characters that a stream cannot encode: write symbols in ASCII, and escape all others."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    written = [SYMBOLS.get(character) or ascii(character)[1:-1] for character in characters]
    return "".join(written), error.end


codecs.register_error("mnist.symbols", _replace_symbols)


def _notify(line: str) -> None:
    _print(line, err=True, **({"fg": "yellow", "bold": True} if line.startswith("WARNING") else {"dim": True}))


# ---- Commands --------------------------------------------------------------------------------------------------------


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context) -> None:
    """Train a classifier of MNIST's digits with under 25,000 parameters, and judge whether it may ship.

    \b
    mnist train           get the data, train, save, and judge
    mnist gate            judge the newest model; exit code 1 if it must not ship
    mnist predict IMAGE   say what digit is on a picture
    mnist demo            write a page to draw digits on

    Bad input of any kind is one line on stderr and exit code 2.
    """
    if context.invoked_subcommand is None:
        _print(context.get_help())


@cli.command()
@_data_options("auto", _AUTO)
def data(dataset: str, data_dir: Path, mirror: str | None) -> None:
    """Get the data and verify it; what is there and intact is not fetched again."""
    _import_torch()
    loaded = _load_dataset(dataset, data_dir, mirror)
    table = _table("class", *(split.description for split in (loaded.train, loaded.test)))
    counts = [split.labels.bincount(minlength=10).tolist() for split in (loaded.train, loaded.test)]
    for name, *row in zip(loaded.train.classes, *counts, strict=True):
        table.add_row(name, *(f"{count:,}" for count in row))
    out.print(table)
    _print(f"SHA-256 of all images and labels: {loaded.fingerprint()}")


def _interval(context: click.Context, option: click.Parameter, value: str) -> dict[str, float]:
    """``500``: steps; ``30s``: seconds."""
    try:
        interval = {"seconds": float(value[:-1])} if value.endswith("s") else {"steps": float(int(value))}
    except ValueError:
        interval = {"steps": 0.0}
    if not all(0 < amount < math.inf for amount in interval.values()):
        raise click.BadParameter(f"{value!r} is neither a number of steps, like 500, nor of seconds, like 30s")
    return interval


@cli.command()
@_recipe_option
@_recipe_options()
@click.option("--init", type=click.Path(path_type=Path), help="A model to start from, rather than from chance.")
@_data_options("auto", _AUTO)
@_models_dir_option
@_device_option
@click.option("--resume", is_flag=True, help="Go on with the newest interrupted run that has the choices given here.")
@click.option(
    "--checkpoint-interval",
    callback=_interval,
    metavar="STEPS|SECONDSs",
    default="10s",
    show_default=True,
    help="How often the state of the run is saved; 500: steps, 30s: seconds.",
)
@_path_option("--checkpoints-dir", "checkpoints", "Where it is saved until the model is.")
@click.option("--gate/--no-gate", "judged", default=True, show_default=True, help="Whether to judge the model.")
@_policy_option
@_baseline_option
@_reports_dir_option
def train(
    recipe: str,
    init: Path | None,
    dataset: str,
    data_dir: Path,
    mirror: str | None,
    models_dir: Path,
    device: str,
    resume: bool,
    checkpoint_interval: dict[str, float],
    checkpoints_dir: Path,
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

    Ctrl-C and SIGTERM save the state of the run and leave; --resume goes on from there, and so it does after a crash,
    from the last state saved, to the same weights. With no such run it starts a new one.
    """
    recipes.get(recipe, **_given(choices))  # refuses bad ones at once
    for folder in (models_dir, checkpoints_dir, *([reports_dir] if judged else [])):
        _probe(folder)
    _import_torch()
    import torch

    from mnist import distributed, metrics, trainer
    from mnist.storage import artifacts, checkpoints

    target = trainer.select_device(device)
    _read_rules(policy, baseline)
    origin = _read_init(init, choices)
    chosen = recipes.get(recipe, **_given(choices))
    wanted = _given(choices)
    if click.get_current_context().get_parameter_source("recipe") is not ParameterSource.DEFAULT:
        wanted["name"] = recipe
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    with distributed.join(target.type) as group:
        kept, start = (
            _find_run(checkpoints_dir, wanted, dataset, origin, group) if resume or restarted else (None, None)
        )
        loaded = _load_dataset(start.dataset["name"] if start else dataset, data_dir, mirror, silent=group.rank > 0)
        machine = {"device": target.type, "threads": torch.get_num_threads(), "processes": group.size}
        if start:
            start = _check_start(start, loaded, machine)
        else:
            if choices["epochs"] is None:
                chosen = dataclasses.replace(chosen, epochs=chosen.epochs * MNIST_EPOCH / len(loaded.train))
            start = checkpoints.Checkpoint(
                dataclasses.asdict(chosen), _describe_dataset(loaded), machine, init=_describe_init(origin)
            )
            if group.rank == 0 and origin and origin.classes != loaded.train.classes:
                _notify(f"{origin.path.name} knows other classes ({', '.join(origin.classes)}), and learns these anew")
        if group.rank == 0 and kept is None:
            kept = checkpoints.start(checkpoints_dir)
        if kept:
            click.get_current_context().call_on_close(kept.close)
        run = _train(start, origin, loaded, group.device or target, group, kept, checkpoint_interval)
    if kept is None:
        return 0  # what follows is for one process to do
    performance = metrics.evaluate(run.model, loaded.test)
    path = artifacts.save(
        run.model,
        models_dir,
        recipe=start.recipe,
        dataset=start.dataset,
        training={
            **start.machine,
            "init": start.init,
            "resumed": start.resumed,
            "images": run.images,
            "seconds": run.seconds,
            "startup_seconds": run.startup,
            "images_per_second": run.images_per_second,
            "peak_memory_bytes": run.peak_memory,
            "cpu_use": run.cpu_use,
        },
        measured={
            **dataclasses.asdict(performance),
            "threshold": metrics.calibrate(run.model, loaded.train, seed=start.recipe["seed"]),
        },
    )
    kept.remove()
    out.print(_training_table(start, loaded, run, performance))
    if not judged:
        _print(path)
        return 0
    code = _judge(artifacts.load(path), loaded, device, policy, baseline, reports_dir)
    if code == BLOCKED and recipe in IF_BLOCKED:
        _print(IF_BLOCKED[recipe])
    return code


def _describe_dataset(dataset: "Dataset") -> dict[str, Any]:
    return {
        "name": dataset.name,
        "train": dataset.train.description,
        "test": dataset.test.description,
        "sha256": dataset.fingerprint(),
        "classes": list(dataset.train.classes),
    }


def _read_init(path: Path | None, choices: dict[str, Any]) -> "Artifact | None":
    """The model to start from; the network is to be its own, which ``choices`` then say."""
    from mnist.storage import artifacts

    if path is None:
        return None
    origin = artifacts.load(path)
    if choices["architecture"] not in (None, origin.architecture):
        raise MnistError(f"{path} is of architecture {origin.architecture}, not {choices['architecture']}")
    choices["architecture"] = origin.architecture
    return origin


def _describe_init(origin: "Artifact | None") -> dict[str, Any] | None:
    """What the card says of the model that training started from."""
    if origin is None:
        return None
    return {"weights": origin.path.name, "sha256": origin.sha256, "trained_on": sorted(origin.trained_on)}


def _find_run(
    checkpoints_dir: Path, wanted: dict[str, Any], dataset: str, origin: "Artifact | None", group: "Group"
) -> "tuple[Folder | None, Checkpoint | None]":
    """The newest interrupted run with these choices, and where it stands: its folder for the first process alone."""
    from mnist.storage import checkpoints

    def is_wanted(checkpoint: "Checkpoint") -> bool:
        same_choices = all(checkpoint.recipe[name] == value for name, value in wanted.items())
        if origin and (checkpoint.init or {}).get("sha256") != origin.sha256:
            return False
        same_data = dataset == "auto" or Path(dataset) == Path(checkpoint.dataset["name"])  # a folder's may end in a /
        return same_choices and same_data

    found = checkpoints.find(checkpoints_dir, is_wanted, _notify) if group.rank == 0 else None
    content = group.from_first(checkpoints.pack(found[1]) if found else None)
    if content is None:
        if group.rank == 0:
            _notify(f"no interrupted run of these choices is in {checkpoints_dir}: starting a new one")
        return None, None
    return found[0] if found else None, checkpoints.unpack(content, "the checkpoint")


def _check_start(start: "Checkpoint", dataset: "Dataset", machine: dict[str, Any]) -> "Checkpoint":
    """Where to go on from, on this data and machine."""
    if start.dataset["sha256"] != dataset.fingerprint():
        raise MnistError("the data is not what the interrupted run was trained on (start anew, without --resume)")
    changed = [
        f"{name}: {start.machine.get(name)}, now {value}"
        for name, value in machine.items()
        if start.machine.get(name) != value
    ]
    if changed:
        _notify(f"WARNING: weights will differ by rounding from an uninterrupted run's ({'; '.join(changed)})")
    return dataclasses.replace(start, machine=machine, resumed=start.resumed + 1)


def _train(
    start: "Checkpoint",
    origin: "Artifact | None",
    dataset: "Dataset",
    device: "torch.device",
    group: "Group",
    kept: "Folder | None",
    interval: dict[str, float],
) -> "Run":
    """Train from ``start`` on, and keep the run in ``kept``; when told to leave, save it, say so, and exit."""
    from mnist import trainer

    saved = None

    def save(step: int, state: "State") -> None:
        nonlocal saved
        if kept is not None:
            try:
                kept.write(step, dataclasses.replace(start, training=state))
                saved = step
            except OSError as error:  # which is no reason to lose the run, too
                _notify(f"WARNING: step {step:,} is not saved, and training goes on: {_explain(error)}")

    with _Signals() as signals, _show_progress(silent=group.rank > 0) as show:
        report = _warn_of_other_load(show) if group.rank == 0 and device.type == "cpu" else show
        try:
            return trainer.train(
                Recipe(**start.recipe),
                dataset.train.images,
                dataset.train.labels,
                init=origin.model.state_dict() if origin else None,
                device=device,
                report=report,
                keeping=trainer.Keeping(save, lambda: signals.heard is not None, **interval),
                state=start.training,
                group=group,
            )
        except trainer.Interrupted as interruption:
            line, step = str(interruption), interruption.step
    if kept is not None:
        where = f"saved in {kept.path}" if saved == step else "NOT saved; what is, is an earlier step"
        _print(f"{line}; {where} (go on: make train RESUME=1, or mnist train --resume)", err=True)
    sys.exit(TERMINATED if signals.heard == signal.SIGTERM else INTERRUPTED)


@cli.command()
@_recipe_option
@_recipe_options("rotation", "translation", "scaling", "seed")
@_data_options("auto", _AUTO)
@click.option("--columns", type=click.IntRange(5, 20), default=10, show_default=True, help="Originals shown.")
@click.option("--draws", type=click.IntRange(1, 20), default=4, show_default=True, help="Versions of each original.")
@_path_option("--output", "figures/augmentation_samples.png", "The picture to write.")
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

    from mnist import transforms
    from mnist.report import figures

    split = _load_dataset(dataset, data_dir, mirror).train
    generator = torch.Generator().manual_seed(chosen.seed)
    shuffled = torch.randperm(len(split), generator=generator)
    of_digit = [shuffled[split.labels[shuffled] == digit] for digit in range(10)]
    picked = torch.stack(
        [of_digit[column % 10][column // 10 % len(of_digit[column % 10])] for column in range(columns)]
    )
    originals = transforms.to_float(split.images[picked])
    augmented = transforms.random_affine(
        originals.repeat(draws, 1, 1, 1), chosen.rotation, chosen.translation, chosen.scaling, generator
    )
    strength = (
        f"rotation ±{chosen.rotation:g}°, shift ±{chosen.translation:.0%}, scale ±{chosen.scaling:.0%}; "
        f"{split.description}"
    )
    names = [split.classes[label] for label in split.labels[picked].tolist()]
    figures.draw_augmentation(originals[:, 0], augmented.view(draws, columns, 28, 28), names, strength, output)
    _print(output)


@cli.command()
@_model_argument
@_data_options(None, f"What to measure on; {_BY_DEFAULT}")
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
    from mnist.storage import artifacts

    artifact = artifacts.load(model or artifacts.require_newest(models_dir))
    _probe(reports_dir)
    _read_rules(policy, baseline)
    loaded = _load_dataset(dataset or _trained_on(artifact), data_dir, mirror)
    return _judge(artifact, loaded, device, policy, baseline, reports_dir)


@cli.command()
@click.argument("patterns", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--model", type=click.Path(path_type=Path), help="A weights file; by default the newest model.")
@_models_dir_option
@click.option("--json", "as_json", is_flag=True, help="One object a line, for programs.")
@click.option(
    "--show",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=SEEN,
    help=f"Draw what the network saw of the first {SHOWN} images; {SEEN} where no path is given.",
)
def predict(patterns: tuple[str, ...], model: Path | None, models_dir: Path, as_json: bool, show: Path | None) -> int:
    """Say what digit is on each IMAGE: a file that Pillow reads, a folder, or a pattern like 'scans/*.png'.

    A scan, a photo of paper or a blackboard, a drawing; any size and colour. Where the model is not sure it says so,
    rather than guess. The exit code is 2 if any file was no image; the others are answered all the same.
    """
    if show and show.suffix != ".png":
        raise MnistError(f"--show must end in .png, not {show}")
    if show and show != SEEN and show.exists():  # an image that comes after --show is its path, and would be lost
        raise MnistError(f"{show} is there already (remove it, or give --show another name, after the images)")
    _import_torch()
    from mnist import datasets
    from mnist.deploy import inference
    from mnist.preparation import ImageError
    from mnist.report import figures

    paths = [path for pattern in patterns for path in _expand(pattern)]
    artifact = inference.load(model, models_dir)
    _notify(f"model: {artifact.path}, trained on {_describe_training(artifact)}")
    if artifact.classes != datasets.DIGITS:
        _notify(f"WARNING: it knows no digits, but {', '.join(artifact.classes)}; images are prepared as digits are")
    started, failed = time.perf_counter(), 0
    seen: list[tuple[Any, str]] = []
    doubtful = 0
    for path, answer in zip(_track(paths), inference.predict_files(artifact, paths), strict=True):
        if isinstance(answer, ImageError):
            failed += 1
            _print(f"error: {answer}", err=True)
            continue
        doubtful += answer.label is None
        _print(_as_json(path, answer) if as_json else f"{click.format_filename(path)}: {answer}")
        if answer.prepared is not None and show and len(seen) < SHOWN:
            seen.append((answer.prepared, _title(path, answer)))
    if len(paths) > 1:
        rate = len(paths) / (time.perf_counter() - started)
        sure = len(paths) - failed - doubtful
        _notify(f"{sure:,} of {len(paths):,} images are answered, {doubtful:,} are not ({rate:,.0f} images/s)")
    if seen and show:
        figures.draw_seen(seen, show)
        _notify(f"drawn: {show}")
    return BAD_INPUT if failed else 0


def _title(path: Path, answer: "Prediction") -> str:
    (best, confidence), (runner_up, less) = answer.best, answer.runner_up
    doubt = "not sure: " * (answer.label is None)
    return f"{click.format_filename(path.name)[-24:]}\n{doubt}{best}, {confidence:.1%}\nnext: {runner_up}, {less:.1%}"


def _expand(pattern: str) -> list[Path]:
    """The images that an argument stands for: a file, all in a folder, or all that match a pattern."""
    from mnist import preparation

    path = Path(pattern)
    if path.is_dir():
        paths = preparation.find(path)
    elif glob.has_magic(pattern) and not path.exists():
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  Path's takes no absolute ones
        paths = [Path(match) for match in matches if not Path(match).is_dir()]
    else:
        paths = [path]
    if not paths:
        raise MnistError(f"there is no image in {path}" if path.is_dir() else f"nothing matches {pattern}")
    return paths


def _track(paths: list[Path]) -> Iterator[Path]:
    """The paths; of many, with a progress bar on a terminal."""
    if len(paths) < MANY or not sys.stderr.isatty():
        yield from paths
        return
    console = Console(stderr=True)
    with ProgressBar(console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        yield from bar.track(paths, description="images")


def _as_json(path: Path, answer: "Prediction") -> str:
    """What ``--json`` says of an image."""
    from mnist import files

    (best, confidence), (runner_up, less) = answer.best, answer.runner_up
    said = {
        "image": str(path),
        "outcome": "not found" if answer.problem else "not sure" if answer.label is None else "sure",
        "label": answer.label,
        "best": best or None,
        "confidence": confidence,
        "runner_up": runner_up or None,
        "runner_up_confidence": less,
        "probabilities": dict(zip(answer.classes, answer.probabilities, strict=False)),
        "problem": answer.problem or None,
    }
    return files.to_json(said, indent=None).decode().rstrip()


def _describe_training(artifact: "Artifact") -> str:
    if not artifact.card:
        return "nobody knows what: it has no card"
    return f"{artifact.card.dataset.get('train', artifact.card.dataset['name'])}"


@cli.command()
@_model_argument
@_data_options(None, f"What to check it on; {_BY_DEFAULT}")
@_models_dir_option
@click.option("--output", type=click.Path(path_type=Path), help="The file to write; by default beside the model.")
def export(
    model: Path | None, dataset: str | None, data_dir: Path, mirror: str | None, models_dir: Path, output: Path | None
) -> None:
    """Write MODEL (default: the newest) as an ONNX file: images in, probabilities and digit out.

    Images are uint8 [batch, 1, 28, 28], prepared in the file. It is kept only if under ONNX Runtime it says the same as
    the model does of every test image.
    """
    _import_torch()
    from mnist import files
    from mnist.deploy import export as exporting
    from mnist.storage import artifacts

    artifact = artifacts.load(model or artifacts.require_newest(models_dir))
    path = output or artifact.path.with_suffix(".onnx")
    if path.suffix != ".onnx":
        raise MnistError(f"--output must end in .onnx, not {path}")
    content = exporting.to_onnx(artifact)
    loaded = _load_dataset(dataset or _trained_on(artifact), data_dir, mirror)
    _check_classes(artifact, loaded)
    agreement = exporting.check(content, artifact.model, loaded.test.images)
    _print(
        f"the same digit as PyTorch on all of {loaded.test.description}; "
        f"probabilities at most {agreement.difference:.1e} apart"
    )
    table = _table("images at once", "ONNX Runtime, ms", "PyTorch, ms", "times as fast")
    for latency in exporting.latencies(content, artifact.model):
        onnx, torch = 1000 * latency.onnx, 1000 * latency.torch
        table.add_row(f"{latency.batch:,}", f"{onnx:.3f}", f"{torch:.3f}", f"{torch / onnx:.1f}")
    out.print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not files.write_new(path, content):
        _notify("it is there already")
    _print(path)


@cli.command()
@_model_argument
@_models_dir_option
@_path_option("--output", "site/index.html", "The page to write.")
def demo(model: Path | None, models_dir: Path, output: Path) -> None:
    """Write a page to draw digits on, with MODEL (default: the newest) in it.

    It is one file that needs no server and no network: a double click opens it.
    """
    if output.suffix != ".html":
        raise MnistError(f"--output must end in .html, not {output}")
    _import_torch()
    from mnist import files
    from mnist.deploy import page
    from mnist.storage import artifacts

    artifact = artifacts.load(model or artifacts.require_newest(models_dir))
    content = page.render(artifact).encode()
    if output.exists() and page.MARK.encode() not in files.read(output, page.MAX_PAGE_BYTES):
        raise MnistError(f"{output} is there already, and is no page of this program's (choose another --output)")
    output.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(output, content)
    _notify(f"with {artifact.path} in it, {len(content) / 1000:,.0f} kB; open it in a browser:")
    _print(output)


@cli.command()
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, metavar="[PATH]...")
def verify(paths: tuple[Path, ...]) -> int:
    """Check that models, checkpoints and data are as they were written.

    PATH is a file or a folder; the default is whatever there is of models, checkpoints and data. The exit code is 1 if
    anything is damaged, unfinished, or cannot be told.
    """
    chosen = paths or [folder for name in ("models", "checkpoints", "data") if (folder := Path(name)).is_dir()]
    _import_torch()
    from mnist.storage import integrity

    table = Table("file", "what", "", box=box.SIMPLE_HEAD)
    findings = [finding for path in chosen for finding in integrity.check(path)]
    for finding in findings:
        style = "bold red" if finding.problem else ""
        table.add_row(str(finding.path), finding.kind, "NOT INTACT" if finding.problem else "intact", style=style)
    if findings:
        out.print(table)
    problems = [finding for finding in findings if finding.problem]
    for finding in problems:
        _print(f"{finding.path}: {finding.problem}")
    _print(f"{len(findings) - len(problems)} of {len(findings)} files are intact")
    return BLOCKED if problems else 0


def _trained_on(artifact: "Artifact") -> str:
    return str(artifact.card.dataset["name"]) if artifact.card else "mnist"


def _read_rules(policy: Path | None, baseline: Path | None) -> None:
    """Fail now rather than after the training or the download, if the policy or the baseline cannot be read."""
    from mnist import gate as gates
    from mnist.storage import artifacts

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
    from mnist import gate as gates
    from mnist import report, trainer
    from mnist.storage import artifacts

    target = trainer.select_device(device)
    older = artifacts.load(baseline) if baseline else None
    for each in filter(None, (artifact, older)):
        _check_classes(each, dataset)
        each.model.to(target)
    recipe = artifact.card.recipe.get("name") if artifact.card else None
    rules = gates.load_policy(policy or gates.POLICY, recipe=recipe, dataset=dataset.kind)
    evaluation = gates.evaluate(artifact, dataset, rules, older)
    if evaluation.measurement.possibly_seen:
        _notify(
            "WARNING: the model may have been trained on these very images: "
            f"{dataset.name} shares some with {', '.join(sorted(artifact.trained_on))}"
        )
    content = report.build(evaluation, dataset.test)
    page = report.write(content, dataset.test, evaluation.measurement, reports_dir / artifact.path.stem)
    _show_verdicts(content)
    _print(f"report: {page}")
    if "GITHUB_ACTIONS" in os.environ:
        _tell_github(content, report.markdown(content, dataset.test))
    return BLOCKED if gates.blocked(evaluation.verdicts) else 0


def _check_classes(artifact: "Artifact", dataset: "Dataset") -> None:
    if artifact.classes != dataset.test.classes:
        known, shown = (", ".join(classes) for classes in (artifact.classes, dataset.test.classes))
        raise MnistError(f"{artifact.path} knows {known}, and {dataset.name} is of {shown}")


def _given(choices: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in choices.items() if value is not None}


def _warn_of_other_load(report: "Report") -> "Report":
    """Pass reports on, and warn once, soon after the start, if other processes slow the training threads down."""
    import torch

    load, threads = resources.OtherLoad(), torch.get_num_threads()
    watching = threads > 1

    def watch(progress: "Progress") -> None:
        nonlocal watching
        if watching and load.seconds >= SECONDS_TO_WATCH:
            watching, busy = False, load.busy()
            if busy + threads >= load.processors + 0.5:
                _notify(
                    f"WARNING: other processes keep {busy:.1f} of {load.processors} processors busy. {threads} threads "
                    "then wait for each other, and one may be several times faster: Ctrl-C, and the same command again "
                    "with OMP_NUM_THREADS=1 in front"
                )
        report(progress)

    return watch


# ---- What is shown ---------------------------------------------------------------------------------------------------


@contextmanager
def _show_progress(*, silent: bool = False) -> "Iterator[Report]":
    """A progress bar on a terminal; elsewhere a plain line for every tenth of the way."""
    if silent:
        yield lambda progress: None
        return
    if not out.is_terminal:
        tenths_shown = 0

        def write_line(progress: "Progress") -> None:
            nonlocal tenths_shown
            tenths = 10 * progress.step // progress.steps
            if tenths > tenths_shown:
                tenths_shown = tenths
                _print(_describe(progress))

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


def _training_table(start: "Checkpoint", dataset: "Dataset", run: "Run", performance: "Performance") -> Table:
    from mnist import architecture
    from mnist.datasets import class_name

    recipe, init = Recipe(**start.recipe), start.init
    table = _table("measured on", performance.measured_on, title=f"Recipe {recipe.name}, seed {recipe.seed}")
    table.add_row("accuracy", f"{performance.accuracy:.2%}", style="bold")
    for label, accuracy in enumerate(performance.per_digit):
        table.add_row(f"accuracy on {class_name(label, dataset.test.classes)}", f"{accuracy:.2%}")
    table.add_section()
    table.add_row("trained on", dataset.train.description)
    if init:
        table.add_row("starting from", init["weights"])
    table.add_row("parameters", f"{architecture.count_parameters(run.model):,}")
    table.add_row("training time", f"{run.seconds:.1f} s for {recipe.epochs:g} epoch{'s' * (recipe.epochs != 1)}")
    table.add_row("speed", f"{run.images_per_second:,.0f} images/s")
    table.add_row("peak memory", f"{run.peak_memory / 2**20:,.0f} MiB")
    table.add_row("CPU use", f"{run.cpu_use:.2f} cores")
    return table


def _show_verdicts(report: dict[str, Any]) -> None:
    """Every verdict, in words those that are not a pass, what changed since the baseline, and the decision."""
    from mnist.datasets import class_name

    verdicts = report["verdicts"]
    _print(f"{report['model']}, measured on: {report['measured_on']}")
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
        _print(_explain_verdict(verdict))
    if against := report["comparison"]:
        for what in ("lost", "gained"):
            counts = against[f"{what}_per_digit"]
            names = [class_name(label, report["classes"]) for label in range(len(counts))]
            split = ", ".join(f"{count} of {name}" for name, count in zip(names, counts, strict=True) if count)
            _print(f"Against {against['previous']}: {sum(counts)} images {what}{f' ({split})' if split else ''}")

    blocking = [verdict["criterion"] for verdict in verdicts if verdict["blocks"]]
    if blocking:
        _print(f"BLOCKED by: {', '.join(blocking)}", bold=True, fg="red")
    elif doubtful:
        _print(f"SHIP, with {len(doubtful)} of {len(verdicts)} criteria undecided", bold=True, fg="yellow")
    else:
        _print(f"SHIP: all {len(verdicts)} criteria hold", bold=True, fg="green")


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
            _print(f"::{level} title={verdict['criterion']}::{_escape(_explain_verdict(verdict))}")
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(summary)


def _escape(message: str) -> str:
    """As GitHub's workflow commands want it."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
