"""A model on disk: the weights file, and beside it the model card that says where it comes from and how good it is.

The weights are a plain ``state_dict``, so that any program with the same layers can load them. A name is
``mnist_model_YYYYMMDD_HHMMSS`` in UTC, followed by ``_2``, ``_3``, ... where that second has more than one model.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import platform
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnist import architecture, files
from mnist.architecture import Classifier
from mnist.datasets import DIGITS
from mnist.errors import MnistError, first_line
from mnist.storage import pickles

SCHEMA = 2
LARGEST_WEIGHTS = 10_000_000  # bytes; a hundred times what 25,000 parameters need
LARGEST_CARD = 1_000_000  # bytes
DEEPEST_CARD = 10  # tables within tables
UNCALIBRATED = 0.9  # threshold of a model whose card names none

_UNSEALED = "0" * 64
_NAME = re.compile(r"mnist_model_(\d{8}_\d{6})(?:_(\d+))?\.pth")


class ArtifactError(MnistError):
    """A model file that is missing, damaged, of another kind, or that would run code."""


@dataclass(frozen=True)
class ModelCard:
    """What a reader must know about a weights file.

    created: UTC, ISO 8601; sha256 and bytes: of the weights file; recipe, dataset, training, measured and environment:
    every choice made, what it was trained on, what that took, how good it is, and on what machine; card_sha256: of the
    card's own file, with 64 zeros in place of this.
    """

    schema: int
    weights: str
    sha256: str
    bytes: int
    created: str
    architecture: str
    parameters: int
    multiply_accumulates: int
    recipe: Mapping[str, Any]
    dataset: Mapping[str, Any]
    training: Mapping[str, Any]
    measured: Mapping[str, Any]
    environment: Mapping[str, Any]
    card_sha256: str = _UNSEALED


@dataclass(frozen=True)
class Artifact:
    """A model in memory and where it came from; ``card`` is None for weights that have none beside them.

    bytes and sha256: of the weights file.
    """

    path: Path
    bytes: int
    sha256: str
    architecture: str
    model: Classifier
    card: ModelCard | None

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each of its answers; the digits, where the card does not say."""
        return tuple(self.card.dataset.get("classes", DIGITS)) if self.card else DIGITS

    @property
    def threshold(self) -> float:
        """The probability from which on an answer is to be relied on, as training found it."""
        return float(self.card.measured.get("threshold", UNCALIBRATED)) if self.card else UNCALIBRATED

    @property
    def trained_on(self) -> frozenset[str]:
        """The names of all data sets that its weights have learned from, those of the model it started from included.

        Of weights without a card MNIST is supposed.
        """
        if not self.card:
            return frozenset({"mnist"})
        return frozenset({self.card.dataset["name"], *(self.card.training.get("init") or {}).get("trained_on", ())})

    def initial_model(self) -> Classifier:
        """The model as it was before training; without a card, which knows the seed, one like it.

        For one that started from another model, that is a new network, too: the other may be gone.
        """
        seed = self.card.recipe.get("seed") if self.card else None
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            seed = 0
        return architecture.build(self.architecture, torch.Generator().manual_seed(seed))


def save(
    model: nn.Module,
    models_dir: Path,
    *,
    recipe: Mapping[str, Any],
    dataset: Mapping[str, Any],
    training: Mapping[str, Any],
    measured: Mapping[str, Any],
    now: datetime | None = None,
) -> Path:
    """Write the model and its card under a name that nothing has yet, and return the path of the weights.

    The card comes first and the weights last, each atomically: a weights file that is there is whole, and has its card.

    Raises:
        OSError: the folder cannot be made or written to; then nothing is left of the attempt.
    """
    now = (now or datetime.now(timezone.utc)).astimezone(timezone.utc)
    weights = serialize(model)
    models_dir.mkdir(parents=True, exist_ok=True)
    path = _take_path(models_dir, now)
    card = ModelCard(
        schema=SCHEMA,
        weights=path.name,
        sha256=hashlib.sha256(weights).hexdigest(),
        bytes=len(weights),
        created=now.isoformat(timespec="seconds"),
        architecture=recipe["architecture"],
        parameters=architecture.count_parameters(model),
        multiply_accumulates=architecture.count_multiply_accumulates(model),
        recipe=recipe,
        dataset=dataset,
        training=training,
        measured=measured,
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "threads": torch.get_num_threads(),
        },
    )
    try:
        files.write_atomically(_card_path(path), seal(files.to_json(dataclasses.asdict(card))))
        files.write_atomically(path, weights)
    except BaseException:
        if not path.exists():  # an interruption may come when all is done
            with contextlib.suppress(OSError):
                _card_path(path).unlink()
        raise
    return path


def serialize(model: nn.Module) -> bytes:
    """The content of a weights file."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, buffer)
    return buffer.getvalue()


def load(path: Path) -> Artifact:
    """Load a model of any known architecture. No code in the file is run; damage is found where there is a card.

    Raises:
        ArtifactError: there is no such file, or it is not the intact weights of a known architecture.
    """
    try:
        weights = files.read(path, LARGEST_WEIGHTS)
    except FileNotFoundError:
        raise ArtifactError(f"there is no model at {path}") from None
    except files.UnreadableError as error:
        raise ArtifactError(f"{error} (a model is a .pth file)") from error
    card = _read_card(_card_path(path))
    digest = hashlib.sha256(weights).hexdigest()
    if card and digest != card.sha256:
        raise ArtifactError(f"{path} is damaged: its SHA-256 is not the one on its card")
    state = _read_state(path, weights)
    name, model = _fit(path, state, card)
    return Artifact(path, len(weights), digest, name, model, card)


def newest(models_dir: Path) -> Path | None:
    """The weights file with the latest time in its name, or None where there is none."""
    found = [(match.group(1), int(match.group(2) or 1), path) for path, match in _named(models_dir)]
    return max(found)[2] if found else None


def require_newest(models_dir: Path) -> Path:
    """The same, where there must be one.

    Raises:
        ArtifactError: there is none.
    """
    path = newest(models_dir)
    if path is None:
        raise ArtifactError(f"there is no model in {models_dir} (train one: make train, or mnist train)")
    return path


def _named(models_dir: Path) -> list[tuple[Path, re.Match[str]]]:
    paths = models_dir.iterdir() if models_dir.is_dir() else ()
    return [(path, match) for path in paths if (match := _NAME.fullmatch(path.name))]


def _card_path(weights_path: Path) -> Path:
    return weights_path.with_suffix(".json")


def _take_path(models_dir: Path, now: datetime) -> Path:
    """A weights path whose name is this process's own from here on: the card's file is there, still empty."""
    for stem in files.numbered(f"mnist_model_{now:%Y%m%d_%H%M%S}"):
        path = models_dir / f"{stem}.pth"
        if not os.path.lexists(path) and files.take_name(_card_path(path)):
            return path
    raise AssertionError("unreachable: there is always another number")


# ---- The card --------------------------------------------------------------------------------------------------------


def seal(content: bytes) -> bytes:
    """Return the content of a card file with its SHA-256 in place of the zeros."""
    return content.replace(_UNSEALED.encode(), hashlib.sha256(content).hexdigest().encode(), 1)


def _read_card(path: Path) -> ModelCard | None:
    """The card in that file, every value of the kind that it should be; None where there is no such file.

    Raises:
        ArtifactError: it is no card, or not as it was written.
    """
    try:
        content = bytes(files.read(path, LARGEST_CARD))
    except FileNotFoundError:
        return None
    except files.UnreadableError as error:
        raise ArtifactError(f"{error}: it is not a model card") from error
    try:
        values = json.loads(content)
        if isinstance(values, dict) and values.get("schema", SCHEMA) != SCHEMA:
            raise ArtifactError(
                f"{path} is a model card of schema {values['schema']!r:.20}; this program reads {SCHEMA} "
                "(without its card the model can be loaded, but not checked for damage)"
            )
        card = ModelCard(**values)
        if complaint := _complaint(card):
            raise ValueError(complaint)
    except (ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a model card: {first_line(error)}") from error
    if seal(content.replace(card.card_sha256.encode(), _UNSEALED.encode(), 1)) != content:
        raise ArtifactError(f"{path} is damaged or was edited: its SHA-256 is not the one in it")
    return card


def _complaint(card: ModelCard) -> str:
    """What is wrong with the values of a card, if anything."""
    for name, kind in typing.get_type_hints(ModelCard).items():
        if not isinstance(getattr(card, name), dict if kind == Mapping[str, Any] else kind):
            return f"its {name} is not a {'table' if kind == Mapping[str, Any] else kind.__name__}"
    if not isinstance(card.dataset.get("name"), str):
        return "its dataset has no name"
    classes = card.dataset.get("classes", [""] * architecture.CLASSES)
    if not isinstance(classes, list) or [type(name) for name in classes] != [str] * architecture.CLASSES:
        return f"its classes are not {architecture.CLASSES} names"
    threshold = card.measured.get("threshold", UNCALIBRATED)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        return "its threshold is not between 0 and 1"
    init = card.training.get("init") or {}
    names = init.get("trained_on", []) if isinstance(init, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return "its init is not a table that names data sets"
    if len(card.card_sha256) != len(_UNSEALED):
        return "its card_sha256 is no SHA-256"
    if _depth(dataclasses.asdict(card)) > DEEPEST_CARD:
        return "it is nested too deeply"
    return ""


def _depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, children), default=0)


# ---- The weights -----------------------------------------------------------------------------------------------------


def _read_state(path: Path, weights: bytes | bytearray) -> dict[str, Tensor]:
    try:
        state = pickles.load(weights, str(path))
    except pickles.RefusedError as error:
        raise ArtifactError(str(error)) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise ArtifactError(f"{path} is not a state_dict: names with a tensor each")
    return state


def _fit(path: Path, state: dict[str, Tensor], card: ModelCard | None) -> tuple[str, Classifier]:
    """The network that these weights belong to, and its name: the card's, or else the first that they fit."""
    generator = torch.Generator()
    names = [card.architecture] if card else list(architecture.ARCHITECTURES)
    for name in names:
        model = architecture.build(name, generator)
        with contextlib.suppress(RuntimeError):  # what load_state_dict raises for other names or shapes
            model.load_state_dict(state)
            return name, model.to(memory_format=torch.channels_last).eval()  # convolutions are faster in this layout
    raise ArtifactError(f"{path} holds the weights of another architecture (known: {', '.join(names)})")
