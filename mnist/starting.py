"""Prepare a training run: from its settings, determine the initial state, the data and the checkpoint folder.

A new run starts from a recipe, and from random weights or the weights of a saved model. A resumed run starts from its
last checkpoint.
"""

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mnist import architecture, datasets, distributed, files, recipe_files, recipes
from mnist.datasets import Dataset, Negatives
from mnist.datasets.fingerprints import Digests
from mnist.datasets.splits import Notify
from mnist.distributed import Group
from mnist.errors import MnistError
from mnist.recipes import Recipe
from mnist.storage import artifacts, checkpoints
from mnist.storage.artifacts import Artifact
from mnist.storage.card import DatasetInfo, Origin
from mnist.storage.checkpoints import Checkpoint, Machine, RunFolder
from mnist.storage.state_dicts import MAX_WEIGHTS_BYTES


class RunError(MnistError):
    """Settings that contradict each other, or an interrupted run whose data has changed."""


@dataclass(frozen=True)
class Settings:
    """What to train, on which data, and where to write the results."""

    recipe: str | None = None  # name, or path of a .toml file; None: "standard", or the recipe of the run to resume
    overrides: Mapping[str, Any] = field(default_factory=dict)  # fields of the recipe to replace
    init: Path | None = None  # weights file to start from; None: random weights
    dataset: str = "auto"  # a name or a folder; see `datasets.load`
    data_dir: Path = Path("data")
    mirror: str | None = None  # URL or folder to try before the public mirrors
    skip_unusable: float = 0.0  # share of a folder's images that may be left out
    negatives: str | None = None  # images without a digit; see `datasets.load_negatives`; None: no negatives
    validation: int = 0  # training images to evaluate on instead of the test set; 0: none, or as in the resumed run
    device: str = "auto"  # or cpu, cuda, mps
    resume: bool = False  # continue the newest interrupted run that agrees with these settings, if there is one
    checkpoint_steps: float = math.inf  # training steps between two checkpoints
    checkpoint_seconds: float = 10.0  # seconds between two checkpoints
    checkpoints_dir: Path = Path("checkpoints")
    models_dir: Path = Path("models")


def load_init(settings: Settings, group: Group) -> Artifact | None:
    """Check that the first process can write to the folders, and load the model to start from, if any."""
    if group.rank == 0:
        for path in (settings.models_dir, settings.checkpoints_dir):
            files.check_writable(path)
    return artifacts.load(settings.init) if settings.init else None


def describe_training_images(
    settings: Settings, start: Checkpoint, dataset: Dataset, init: Artifact | None
) -> tuple[Origin | None, Digests]:
    """Return the model that the run started from, and the digests of the images that both were trained on.

    The first value says whether the digests of that model's images are included: a run that is resumed without
    ``--init`` looks for the model in the folder of models.
    """
    digests = dataset.train.digests
    if start.init is None:
        return None, digests
    init = init or _find_origin(settings.models_dir, start.init)
    if init and init.digests is not None:
        digests = np.concatenate([digests, init.digests])
    return dataclasses.replace(start.init, digests_included=bool(init and init.digests_complete)), digests


def _find_origin(models_dir: Path, origin: Origin) -> Artifact | None:
    """Load the model that a resumed run started from, or return None if it is not in the folder of models."""
    try:
        found = artifacts.load(models_dir / origin.weights)
    except (MnistError, OSError):
        return None
    return found if found.sha256 == origin.sha256 else None


def start(
    settings: Settings, init: Artifact | None, group: Group, notify: Notify, stack: contextlib.ExitStack
) -> tuple[Checkpoint, Dataset, Negatives | None, RunFolder | None]:
    """Return the state to train from, the data, the negatives if any, and the folder for checkpoints.

    The folder is None in all processes except the first.

    Every process prepares its own state. If one process fails, or the states differ, all processes stop.

    Args:
        stack: closes the folder when the run ends.
    """
    overrides, recipe = group.attempt(lambda: _choose_recipe(settings, init))
    folder, interrupted = _find_interrupted(settings, overrides, init, group, notify, stack)
    dataset = _load_data(settings, interrupted, group, notify)
    negatives = _load_negatives(settings, interrupted, group, notify)
    validation = interrupted.dataset.validation if interrupted else settings.validation
    machine = Machine(group.device.type, torch.get_num_threads(), group.size)

    def prepare() -> tuple[Checkpoint, Dataset]:
        data = dataset.with_validation(validation) if validation else dataset
        if interrupted:
            return _resume(interrupted, data, negatives, machine, notify), data
        chosen = recipe if "epochs" in overrides else recipe.scaled_to(len(dataset.train))
        origin = Origin(init.path.name, init.sha256, tuple(sorted(init.trained_on))) if init else None
        if init and init.classes != data.train.classes:
            notify(f"{init.path.name} was trained on other classes ({', '.join(init.classes)}); it learns new ones")
        return Checkpoint(chosen, DatasetInfo.of(data, negatives), machine, init=origin), data

    start, dataset = group.attempt(prepare)
    group.agree(_facts(start, init))
    if not interrupted:
        folder = group.attempt(lambda: checkpoints.start(settings.checkpoints_dir) if group.rank == 0 else None)
        if folder:
            stack.callback(folder.close)
    return start, dataset, negatives, folder


def _choose_recipe(settings: Settings, init: Artifact | None) -> tuple[dict[str, Any], Recipe]:
    """Return the overridden fields, including the architecture of ``init`` if given, and the recipe of a new run."""
    overrides = dict(settings.overrides)
    if init:
        if overrides.get("architecture", init.architecture) != init.architecture:
            raise RunError(f"{init.path} has the architecture {init.architecture}, not {overrides['architecture']}")
        overrides["architecture"] = init.architecture
    recipe = recipe_files.get(settings.recipe or recipes.DEFAULT, **overrides)
    _check_size(recipe)
    return overrides, recipe


def _check_size(recipe: Recipe) -> None:
    """Check that the weights of the network will not be too large to be loaded."""
    size = len(artifacts.serialize(architecture.build(recipe.architecture, torch.Generator())))
    if size > MAX_WEIGHTS_BYTES:
        raise RunError(
            f"the weights of {recipe.architecture} take {size:,} bytes, more than the limit of {MAX_WEIGHTS_BYTES:,} "
            "(choose a smaller network)"
        )


def _find_interrupted(
    settings: Settings,
    overrides: Mapping[str, Any],
    init: Artifact | None,
    group: Group,
    notify: Notify,
    stack: contextlib.ExitStack,
) -> tuple[RunFolder | None, Checkpoint | None]:
    """Find the run to resume; return its folder and its last checkpoint.

    The folder is None in all processes except the first. The first process searches if any process asks to resume,
    because the restart counts of the machines differ after one machine has crashed. ``stack`` closes the folder.
    """
    restarts = group.attempt(lambda: distributed.environment_number("TORCHELASTIC_RESTART_COUNT", default=0))
    if not any(group.gather(settings.resume or restarts > 0)):
        return None, None
    wanted = _wanted(settings, overrides)

    def matches(checkpoint: Checkpoint) -> bool:
        if init and (checkpoint.init is None or checkpoint.init.sha256 != init.sha256):
            return False
        same_recipe = all(getattr(checkpoint.recipe, name) == value for name, value in wanted.items())
        # Compare folders as paths, so that a trailing slash makes no difference.
        same_data = settings.dataset == "auto" or Path(settings.dataset) == Path(checkpoint.dataset.name)
        same_split = settings.validation in (0, checkpoint.dataset.validation)
        negatives = checkpoint.dataset.negatives
        same_negatives = settings.negatives is None or (
            negatives is not None and Path(settings.negatives) == Path(negatives.name)
        )
        return same_recipe and same_data and same_split and same_negatives

    def unpack(content: bytes) -> Checkpoint:
        checkpoint = checkpoints.unpack(content, "the checkpoint")
        if not matches(checkpoint):
            raise RunError("the run that rank 0 resumes has other options (start all processes with the same ones)")
        return checkpoint

    found = group.attempt(
        lambda: checkpoints.find(settings.checkpoints_dir, matches, notify) if group.rank == 0 else None
    )
    if found:
        stack.callback(found[0].close)
    content = group.from_first(checkpoints.pack(found[1]) if found else None)
    if content is None:
        notify(f"no interrupted run with these settings is in {settings.checkpoints_dir}: starting a new one")
        return None, None
    return found[0] if found else None, group.attempt(lambda: unpack(content))


def _wanted(settings: Settings, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the recipe that an interrupted run must match, with their values.

    For a recipe file, all fields must match, because the file may have changed. The seed and the epochs are exceptions:
    they must match only if the user sets them, because the epochs are scaled to the data.
    """
    if settings.recipe is None:
        return dict(overrides)
    recipe = recipe_files.get(settings.recipe, **overrides)
    if not recipe_files.is_file(settings.recipe):
        return {**overrides, "name": recipe.name}
    values = dataclasses.asdict(recipe)
    return {name: value for name, value in values.items() if name not in ("epochs", "seed") or name in overrides}


def _load_data(settings: Settings, interrupted: Checkpoint | None, group: Group, notify: Notify) -> Dataset:
    """Load the data set. The first process loads it before the others, and resolves ``auto`` for all of them."""
    name = interrupted.dataset.name if interrupted else settings.dataset

    def load(name: str) -> Dataset:
        return datasets.load(
            name,
            settings.data_dir,
            mirror=settings.mirror,
            skip_unusable=settings.skip_unusable,
            notify=notify,
        )

    first = group.attempt(lambda: load(name) if group.rank == 0 else None)
    chosen = group.from_first(first and first.name)
    return group.attempt(lambda: first or load(chosen if name == "auto" and chosen else name))


def _load_negatives(
    settings: Settings, interrupted: Checkpoint | None, group: Group, notify: Notify
) -> Negatives | None:
    """Load the negatives, if any. The first process loads them before the others, so that only it downloads them."""
    used = interrupted.dataset.negatives if interrupted else None
    name = used.name if used else settings.negatives
    if name is None:
        return None

    def load() -> Negatives:
        return datasets.load_negatives(name, settings.data_dir, notify)

    first = group.attempt(lambda: load() if group.rank == 0 else None)
    return group.attempt(lambda: first or load())


def _facts(start: Checkpoint, init: Artifact | None) -> dict[str, str]:
    """Return the facts that must be equal in all processes: a mapping from names to values, both as text."""
    network = architecture.build(start.recipe.architecture, torch.Generator())
    layout = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    return {
        "data": f"{start.dataset.training_images:,} training images, SHA-256 {start.dataset.sha256[:16]}",
        "validation images": str(start.dataset.validation),
        "negatives": f"SHA-256 {negatives.sha256[:16]}" if (negatives := start.dataset.negatives) else "none",
        **{f"recipe's {name}": str(value) for name, value in dataclasses.asdict(start.recipe).items()},
        "layers": f"SHA-256 {hashlib.sha256(repr(layout).encode()).hexdigest()[:16]}",
        # Random weights are not compared: all processes get the weights of the first process, bit for bit.
        "initial weights": f"SHA-256 {init.sha256[:16]}" if init else "random",
        "steps before the start": str(start.step),
    }


def _resume(
    checkpoint: Checkpoint, dataset: Dataset, negatives: Negatives | None, machine: Machine, notify: Notify
) -> Checkpoint:
    """Check that the data has not changed, warn if the machine has, and return the state to resume from."""
    used = checkpoint.dataset
    before = used.sha256, used.negatives and used.negatives.sha256
    if before != (dataset.fingerprint, negatives and negatives.fingerprint):
        raise RunError("the data has changed since the run was interrupted (start a new run, without --resume)")
    old, new = dataclasses.asdict(checkpoint.machine), dataclasses.asdict(machine)
    if changed := [f"{name}: {old[name]}, now {value}" for name, value in new.items() if old[name] != value]:
        notify(
            f"WARNING: rounding will make the weights differ from those of an uninterrupted run ({'; '.join(changed)})"
        )
    return dataclasses.replace(checkpoint, machine=machine, resumed=checkpoint.resumed + 1)
