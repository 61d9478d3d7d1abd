"""The model card: a JSON file beside the weights that records where a model comes from and how good it is.

A card stores the SHA-256 of the weights file, of the digest file, of the training log and of its own content, so that
corruption of any of them is detected. A checksum does not show who wrote a file: anybody who edits a card can recompute
it.
"""

import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist import files, recipe_changes
from mnist.datasets import DIGITS, Dataset, Negatives
from mnist.errors import MnistError, first_line
from mnist.metrics import Performance
from mnist.recipes import Recipe
from mnist.shapes import CLASSES

CARD_SCHEMA = 3  # schema of the cards that this version writes
READABLE_SCHEMAS = (2, 3)  # cards of schema 2 may lack card_sha256, and name no digest file
MAX_CARD_BYTES = 1_000_000

_UNSEALED = "0" * 64  # placeholder for the card's own SHA-256 while it is computed
_SEAL_KEY = b'"card_sha256": "'


class CardError(MnistError):
    """A file that is not an intact model card of a known schema."""


@dataclass(frozen=True)
class NegativesInfo:
    """The images without a digit that a model was trained on."""

    name: str  # argument of `datasets.load_negatives`
    description: str
    sha256: str  # SHA-256 of all images, hexadecimal

    @classmethod
    def of(cls, negatives: Negatives) -> "NegativesInfo":
        """Describe loaded negatives."""
        return cls(negatives.name, negatives.description, negatives.fingerprint)


@dataclass(frozen=True)
class DatasetInfo:
    """The data set that a model was trained and measured on."""

    name: str  # argument of `datasets.load`
    train: str  # description of the training split
    test: str  # description of the test split
    sha256: str  # SHA-256 of all images and labels, hexadecimal
    classes: tuple[str, ...] = DIGITS  # name of each label
    training_images: int | None = None  # including the validation split; None in cards of schema 2
    validation: int = 0  # size of `test` if it was split off the training images; 0: `test` is a test set
    negatives: NegativesInfo | None = None  # None: the model was trained without negatives

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("the data set has no name")
        if self.validation < 0:
            raise ValueError(f"validation must not be negative, but is {self.validation}")
        if len(self.classes) != CLASSES:
            raise ValueError(f"expected {CLASSES} classes, got {len(self.classes)}")

    @classmethod
    def of(cls, dataset: Dataset, negatives: Negatives | None = None) -> "DatasetInfo":
        """Describe a loaded data set, and the negatives that a model is trained on."""
        return cls(
            name=dataset.name,
            train=dataset.train.description,
            test=dataset.test.description,
            sha256=dataset.fingerprint,
            classes=dataset.train.classes,
            training_images=len(dataset.train) + dataset.validation,
            validation=dataset.validation,
            negatives=NegativesInfo.of(negatives) if negatives else None,
        )


@dataclass(frozen=True)
class Origin:
    """The model whose weights a training run started from."""

    weights: str  # name of the weights file
    sha256: str  # SHA-256 of the weights file, hexadecimal
    trained_on: tuple[str, ...]  # names of all data sets that these weights were trained on, sorted
    digests_included: bool = True  # whether the run's digest file lists all images that they were trained on


@dataclass(frozen=True)
class TrainingStats:
    """How a model was trained, and the time and memory used. Early cards lack threads, processes, init and resumed."""

    device: str  # cpu, cuda or mps
    threads: int | None = None
    processes: int | None = None
    init: Origin | None = None  # None: random initial weights
    resumed: int = 0  # number of times that the run was interrupted and resumed
    images: int = 0  # number of images seen over all epochs
    seconds: float = 0.0  # time spent in the training loop
    startup_seconds: float = 0.0  # time from the start of the process to the end of the first step
    images_per_second: float = 0.0
    peak_memory_bytes: int = 0  # peak memory of the process
    cpu_use: float = 0.0  # CPU seconds per second; 2.0 means that two cores are fully used


@dataclass(frozen=True)
class Environment:
    """The software and the machine that a model was trained with. Early cards have only the first four fields."""

    python: str  # version
    torch: str  # version
    platform: str  # operating system and processor architecture
    threads: int  # number of PyTorch threads
    mnist: str | None = None  # version of this package
    commit: str | None = None  # git commit of the package's source tree; None: no source tree, or unknown
    clean: bool | None = None  # True: no file of the package differed from that commit
    processor: str | None = None  # model name
    torchvision: str | None = None  # version
    numpy: str | None = None  # version
    pillow: str | None = None  # version
    scipy: str | None = None  # version


@dataclass(frozen=True)
class ModelCard:
    """Everything that a user must know about a weights file."""

    schema: int
    weights: str  # name of the weights file
    sha256: str  # SHA-256 of the weights file, hexadecimal
    bytes: int  # size of the weights file
    created: str  # UTC, ISO 8601
    architecture: str
    parameters: int
    multiply_accumulates: int  # number for one image
    recipe: Recipe
    dataset: DatasetInfo
    training: TrainingStats
    measured: Performance  # performance on the test split of the data set
    environment: Environment
    digests_sha256: str | None = None  # SHA-256 of the digest file; None: there is no digest file
    log_sha256: str | None = None  # SHA-256 of the training log; None: there is no log
    card_sha256: str = _UNSEALED  # SHA-256 of the card file with 64 zeros in place of this value

    def describe_recipe(self) -> str:
        """Return the recipe's name with its changes, or only the name if the number of training images is unknown."""
        images = self.dataset.training_images
        return recipe_changes.describe(self.recipe, images) if images else self.recipe.name


def card_path(weights_path: Path) -> Path:
    """Return the path of the card that belongs to a weights file."""
    return weights_path.with_suffix(".json")


def digests_path(weights_path: Path) -> Path:
    """Return the path of the file with the digests of the images that a model was trained on.

    The file holds the sorted digests of the distinct images (see :func:`mnist.datasets.fingerprints.digests`), 8 bytes
    each, big-endian.
    """
    return weights_path.with_suffix(".digests")


def to_bytes(card: ModelCard) -> bytes:
    """Return the contents of the card file: sealed JSON, with null for numbers that are not finite."""
    return seal(files.to_json(dataclasses.asdict(card)))


def seal(content: bytes) -> bytes:
    """Replace the 64 zeros of ``card_sha256`` in a card file with the SHA-256 of the file."""
    return _replace_seal(content, _UNSEALED, hashlib.sha256(content).hexdigest())


def _replace_seal(content: bytes, old: str, new: str) -> bytes:
    """Replace the card's own SHA-256; the preceding key distinguishes it from the other digests on the card."""
    return content.replace(_SEAL_KEY + old.encode(), _SEAL_KEY + new.encode())


def read(path: Path) -> ModelCard | None:
    """Read and validate a card; return None if the file does not exist.

    Raises:
        CardError: if the file is not a card of a readable schema, has a value of the wrong type, or was modified.
        OSError: if the file cannot be read.
    """
    try:
        content = bytes(files.read(path, MAX_CARD_BYTES))
    except FileNotFoundError:
        return None
    except files.UnreadableError as error:
        raise CardError(f"{error} (a model card is a .json file)") from error
    try:
        values = json.loads(content)
        if isinstance(values, dict) and values.get("schema", CARD_SCHEMA) not in READABLE_SCHEMAS:
            raise CardError(
                f"{path} is a model card of schema {values['schema']!r:.20}, but this program reads schemas "
                f"{' and '.join(map(str, READABLE_SCHEMAS))} (to load the model without its card, remove the card)"
            )
        card: ModelCard = parse(ModelCard, values, "the card")
        if len(card.card_sha256) != len(_UNSEALED):
            raise ValueError("card_sha256 is not a SHA-256")
        if card.schema == CARD_SCHEMA and "card_sha256" not in values:
            raise ValueError("it lacks card_sha256, the SHA-256 of the card itself")
    except (ValueError, TypeError, OverflowError, RecursionError, MnistError) as error:
        if isinstance(error, CardError):
            raise
        raise CardError(f"{path} is not a model card: {first_line(error)}") from error
    if seal(_replace_seal(content, card.card_sha256, _UNSEALED)) != content:
        raise CardError(f"{path} is damaged or was edited: its SHA-256 differs from the one stored in it")
    return card


def parse(kind: Any, value: Any, name: str) -> Any:
    """Convert a JSON value to the type ``kind``, or raise an error if it has another type.

    Args:
        kind: a dataclass, ``str``, ``int``, ``float`` or ``bool``, or ``tuple[T, ...]`` or ``T | None`` with one of
            these as T. For ``float``, None becomes NaN.
        value: the value in the file.
        name: name of the value, for error messages.

    Raises:
        TypeError: if the value has another type, lacks a field, or has an unknown field.
        ValueError: if a value is out of range.
        RecipeError: if a field of a recipe is out of range.
    """
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, value, name)
    if typing.get_origin(kind) is types.UnionType:
        options = [option for option in typing.get_args(kind) if option is not types.NoneType]
        return None if value is None else parse(options[0], value, name)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"{name} is not a list")
        return tuple(parse(typing.get_args(kind)[0], item, f"an item of {name}") for item in value)
    if kind is float and value is None:
        return float("nan")
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, int | float if kind is float else kind):
        raise TypeError(f"{name} is not of type {kind.__name__}")
    return kind(value)


def _parse_fields(kind: Any, value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is not a JSON object")
    kinds = typing.get_type_hints(kind)
    if unknown := [key for key in value if key not in kinds]:
        raise TypeError(f"{name} has the unknown field {unknown[0]!r:.40}")
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    if missing := [key for key in required if key not in value]:
        raise TypeError(f"{name} lacks the field {missing[0]!r}")
    return kind(**{key: parse(kinds[key], item, key) for key, item in value.items()})
