"""Trained models on disk: the weights file, and beside it the model card, the digest file and the training log.

The weights are a plain ``state_dict``, which any program with the same layers can load. A weights file is
named ``mnist_model_YYYYMMDD_HHMMSS.pth`` after the time in UTC; if the name is taken, ``_2``, ``_3``, ... is appended.
"""

import contextlib
import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mnist import architecture as architectures
from mnist import confidence, files, operations, transforms
from mnist.architecture import Classifier
from mnist.datasets import DIGITS, Dataset, overlap
from mnist.datasets.fingerprints import DIGEST_BYTES, Digests
from mnist.metrics import Performance
from mnist.progress import LogEntry
from mnist.recipes import Recipe
from mnist.storage import card as cards
from mnist.storage import environment, state_dicts, training_logs
from mnist.storage.card import CardError, DatasetInfo, ModelCard, Origin, TrainingStats
from mnist.storage.state_dicts import MAX_WEIGHTS_BYTES
from mnist.storage.state_dicts import ArtifactError as ArtifactError
from mnist.storage.training_logs import TrainingLogError

MAX_DIGESTS_BYTES = 16_000_000  # enough for two million images

_NAME = re.compile(r"mnist_model_(\d{8}_\d{6})(?:_(\d+))?\.pth")


class UnnamedNetworkError(ArtifactError):
    """The model is intact, but its network is a class of the user's, which is imported only if the user names it."""


@dataclass(frozen=True)
class Artifact:
    """A model that was loaded from a file."""

    path: Path  # path of the weights file
    bytes: int  # size of the weights file
    sha256: str  # SHA-256 of the weights file, hexadecimal
    architecture: str
    model: Classifier
    card: ModelCard | None  # None if no card lies beside the weights
    digests: Digests | None = None  # digests of images that the model was trained on, sorted; None: unknown
    log: tuple[LogEntry, ...] = ()  # training log; empty: unknown
    notices: tuple[str, ...] = ()  # changes that made the weights fit the network, and a problem with the log if any
    min_confidence: float | None = None  # the user's confidence threshold; None: the one that training determined

    def __post_init__(self) -> None:
        confidence.check(self.min_confidence)

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class, or the ten digits if there is no card."""
        return self.card.dataset.classes if self.card else DIGITS

    @property
    def description(self) -> str:
        """A short description of the model, for a report."""
        return f"architecture {self.architecture}"

    @property
    def threshold(self) -> float:
        """The lowest confidence at which a prediction counts as sure."""
        if self.min_confidence is not None:
            return self.min_confidence
        return self.card.measured.threshold if self.card else confidence.UNCALIBRATED_THRESHOLD

    @property
    def training_data(self) -> str | None:
        """A description of the data that the model was trained on, or None if there is no card."""
        return self.card.dataset.train if self.card else None

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class, float32 [N, classes], for images, uint8 [N, 28, 28]."""
        batch = torch.from_numpy(images)[:, None].to(architectures.device_of(self.model))
        logits = architectures.predict(self.model, transforms.prepare(batch))
        found: NDArray[np.float32] = logits.softmax(1).cpu().numpy()
        return found

    @property
    def origin(self) -> Origin | None:
        """The model that the training started from, or None if it started from random weights or there is no card."""
        return self.card.training.init if self.card else None

    @property
    def digests_complete(self) -> bool:
        """True if the digests of all images that the model was trained on are known."""
        return self.digests is not None and (self.origin is None or self.origin.digests_included)

    @property
    def trained_on(self) -> frozenset[str]:
        """The names of all data sets that the weights were trained on, including those of the model they started from.

        Weights without a card are assumed to be trained on MNIST; :meth:`possibly_seen` does not rely on this.
        """
        if not self.card:
            return frozenset({"mnist"})
        return frozenset({self.card.dataset.name, *(self.origin.trained_on if self.origin else ())})

    def overlapping_data(self, dataset: Dataset) -> frozenset[str]:
        """Return the names of data sets that the model was trained on and that may contain test images of ``dataset``.

        If the digests of the training images are known, data sets with byte-identical images are left out, because the
        digests detect these images.
        """
        found = self.trained_on & dataset.overlapping_names()
        of_origin = frozenset(self.origin.trained_on if self.origin else ())
        if self.digests is not None:
            return found - (dataset.byte_identical_names() - (frozenset() if self.digests_complete else of_origin))
        if dataset.validation and self.card and self.card.dataset.sha256 == dataset.fingerprint:
            return found & of_origin  # unlike this model, its origin may have been trained on the validation split
        return found

    def possibly_seen(self, dataset: Dataset) -> tuple[int | None, str]:
        """Return the number of test images that the model may have been trained on, and the reason, for a message.

        All images count if the names of the data sets indicate an overlap that digests cannot show, or if the digest
        file is missing. Otherwise, the images whose digest is in the digest file count. If the card names no digest
        file, all images count if the data have or may have changed since training.

        The number is None if none of these rules finds an image and some of the training images are unknown: there is
        neither a card nor a digest file, or the digest file does not list the training images of the model's origin.
        """
        if self.card is None and self.digests is None:
            return None, "no model card says what it was trained on"
        every, file = len(dataset.test), cards.digests_path(self.path).name
        if names := self.overlapping_data(dataset):
            return every, f"it was trained on {', '.join(sorted(names))}, which may contain them"
        if self.digests is not None:
            count = overlap.count_identical(dataset.test, self.digests)
            if count or self.digests_complete:
                return count, f"{file} lists them"
        elif self.card is not None:
            described = self.card.dataset
            if self.card.digests_sha256:
                return every, f"{file}, which lists its training images, is missing"
            if described.name == dataset.name and described.sha256 != dataset.fingerprint:
                return every, f"{dataset.name} has changed since the training"
            if self.origin and dataset.name in self.origin.trained_on and not dataset.published:
                return every, f"{dataset.name} may have changed since {self.origin.weights} was trained on it"
            if described.name != dataset.name:
                return None, f"its card names no digest file, and {described.name} may contain them"
        if self.origin:
            return None, f"it is not known on which images {self.origin.weights} was trained"
        return 0, ""

    def initial_model(self) -> Classifier:
        """Build the network with the weights it had before training, or with seed 0 if there is no card.

        For a model that started from another model, this is also a newly initialized network.
        """
        seed = self.card.recipe.seed if self.card else 0
        return architectures.build(self.architecture, torch.Generator().manual_seed(seed))


def save(
    model: Classifier,
    models_dir: Path,
    *,
    recipe: Recipe,
    dataset: DatasetInfo,
    training: TrainingStats,
    measured: Performance,
    digests: Digests | None = None,
    log: Sequence[LogEntry] = (),
    now: datetime | None = None,
) -> Path:
    """Write a model, its card, its digest file and its log under a new name, and return the path of the weights.

    Each file is written atomically, the weights last. If a weights file exists, all its files are therefore complete.

    Args:
        digests: digests of the images that the model was trained on; None if they are unknown.
        log: the training log; if it is empty, no log file is written.

    Raises:
        OSError: if the folder cannot be created or written to. No file is left behind in this case.
    """
    now = (now or datetime.now(timezone.utc)).astimezone(timezone.utc)
    weights = serialize(model)
    models_dir.mkdir(parents=True, exist_ok=True)
    path = _reserve_path(models_dir, now)
    others: dict[Path, bytes] = {}
    try:
        if digests is not None:
            others[cards.digests_path(path)] = np.unique(digests).astype(">u8").tobytes()
        if log:
            others[training_logs.log_path(path)] = training_logs.to_bytes(log)
        sha256 = {other: hashlib.sha256(content).hexdigest() for other, content in others.items()}
        card = ModelCard(
            schema=cards.CARD_SCHEMA,
            weights=path.name,
            sha256=hashlib.sha256(weights).hexdigest(),
            bytes=len(weights),
            created=now.isoformat(timespec="seconds"),
            architecture=recipe.architecture,
            parameters=architectures.count_parameters(model),
            multiply_accumulates=operations.count_multiply_accumulates(model),
            recipe=recipe,
            dataset=dataset,
            training=training,
            measured=measured,
            environment=environment.describe(),
            digests_sha256=sha256.get(cards.digests_path(path)),
            log_sha256=sha256.get(training_logs.log_path(path)),
        )
        for other, content in others.items():
            files.write_atomically(other, content)
        files.write_atomically(cards.card_path(path), cards.to_bytes(card))
        files.write_atomically(path, weights)
    except BaseException:
        if not path.exists():  # an interruption can arrive after the last write
            for other in (cards.card_path(path), *others):
                with contextlib.suppress(OSError):
                    other.unlink()
        raise
    return path


def serialize(model: nn.Module) -> bytes:
    """Return the contents of a weights file for a model."""
    buffer = io.BytesIO()
    torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, buffer)
    return buffer.getvalue()


def load(path: Path, *, architecture: str | None = None) -> Artifact:
    """Load a model of any known architecture without running any code in the file.

    Args:
        architecture: name of the network, for weights from other programs; weights with other names are matched by
            their order and shapes. A name of the form ``MODULE:CLASS`` is used only for weights without a card;
            otherwise, the card names the network.

    Raises:
        ArtifactError: if the file is missing or damaged, or does not hold weights of a known (or the given)
            architecture.
        UnnamedNetworkError: if the card names a class of the user's that has not been registered.
    """
    if files.is_onnx(path):
        raise ArtifactError(f"{path} is an ONNX file (name a .pth file; mnist predict, gate and compare accept both)")
    if path.suffix in (".json", ".jsonl", ".digests"):
        raise ArtifactError(f"{path} does not hold the weights of a model (name the .pth file beside it)")
    try:
        weights = files.read(path, MAX_WEIGHTS_BYTES)
    except FileNotFoundError:
        raise ArtifactError(f"there is no model at {path}") from None
    except files.UnreadableError as error:
        raise ArtifactError(f"{error} (a model is a .pth file)") from error
    try:
        card = cards.read(cards.card_path(path))
    except CardError as error:
        raise ArtifactError(str(error)) from error
    digest = hashlib.sha256(weights).hexdigest()
    if card and digest != card.sha256:
        raise ArtifactError(f"{path} is damaged: its SHA-256 is not the one on its card")
    match_by_order = True
    if card and (architecture is None or ":" in architecture):  # MODULE:CLASS may belong to another model
        architecture, match_by_order = card.architecture, False
        if ":" in architecture and architecture not in architectures.ARCHITECTURES:
            raise UnnamedNetworkError(
                f"{path} was trained with a network of your own, which is loaded only if you name it "
                f"(add --architecture {architecture})"
            )
    name, model, notices = state_dicts.load(path, weights, architecture, match_by_order=match_by_order)
    try:
        log = training_logs.read(path, card)
    except (TrainingLogError, OSError) as error:  # the model can be used without its log
        log, notices = (), (*notices, f"WARNING: {files.explain(error) if isinstance(error, OSError) else error}")
    return Artifact(path, len(weights), digest, name, model, card, _read_digests(path, card), log, notices)


def newest_first(models_dir: Path) -> list[Path]:
    """Return the weights files that have this program's names, sorted by the time in the name, newest first.

    Raises:
        ArtifactError: if ``models_dir`` is a file.
    """
    if models_dir.is_file():
        raise ArtifactError(f"{models_dir} is a file, not a folder of models")
    paths = models_dir.iterdir() if models_dir.is_dir() else ()
    matches = [(match, path) for path in paths if (match := _NAME.fullmatch(path.name))]
    found = [(match.group(1), int(match.group(2) or 1), path) for match, path in matches]
    return [path for *_, path in sorted(found, reverse=True)]


def newest(models_dir: Path) -> Path | None:
    """Return the weights file with the latest time in its name, or None if there is none."""
    return next(iter(newest_first(models_dir)), None)


def require_newest(models_dir: Path) -> Path:
    """Return the weights file with the latest time in its name.

    Raises:
        ArtifactError: if there is no such file.
    """
    path = newest(models_dir)
    if path is None:
        raise ArtifactError(f"there is no model in {models_dir} (train one: make train, or mnist train)")
    return path


def _reserve_path(models_dir: Path, now: datetime) -> Path:
    """Return a path for the weights that no other process can take: the empty card file reserves the name."""
    for stem in files.numbered(f"mnist_model_{now:%Y%m%d_%H%M%S}"):
        path = models_dir / f"{stem}.pth"
        if not os.path.lexists(path) and files.reserve_name(cards.card_path(path)):
            return path
    raise AssertionError("unreachable: the numbers do not end")


def _read_digests(path: Path, card: ModelCard | None) -> Digests | None:
    """Read the digest file that a card names; return None if the card names none, or the file does not exist."""
    if card is None or card.digests_sha256 is None:
        return None
    file = cards.digests_path(path)
    try:
        content = bytes(files.read(file, MAX_DIGESTS_BYTES))
    except FileNotFoundError:
        return None
    except files.UnreadableError as error:
        raise ArtifactError(str(error)) from error
    if hashlib.sha256(content).hexdigest() != card.digests_sha256:
        raise ArtifactError(f"{file} is damaged: its SHA-256 is not the one on the model's card")
    if len(content) % DIGEST_BYTES:
        raise ArtifactError(f"{file} is not a digest file: its size is not a multiple of {DIGEST_BYTES} bytes")
    return np.frombuffer(content, dtype=">u8").astype(np.uint64)
