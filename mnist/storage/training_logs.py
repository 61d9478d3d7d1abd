"""Training logs: a JSON Lines file beside the weights, with a line for each progress report of the training."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

from mnist import files
from mnist.errors import MnistError, first_line
from mnist.progress import LogEntry
from mnist.storage import card as cards
from mnist.storage.card import ModelCard

MAX_LOG_BYTES = 1_000_000  # about a hundred times the size of an ordinary log


class TrainingLogError(MnistError):
    """A training log that is damaged, or belongs to another model."""


def log_path(weights_path: Path) -> Path:
    """Return the path of the training log that belongs to a weights file."""
    return weights_path.with_suffix(".log.jsonl")


def to_bytes(log: Sequence[LogEntry]) -> bytes:
    """Return the contents of a training log file: one JSON object per line."""
    return b"".join(files.to_json(dataclasses.asdict(entry), indent=None) for entry in log)


def read(weights_path: Path, card: ModelCard | None) -> tuple[LogEntry, ...]:
    """Read the training log whose SHA-256 a card records; return () if it records none, or the file does not exist.

    Raises:
        TrainingLogError: if the file is damaged, or belongs to another model.
        OSError: if the file cannot be read.
    """
    if card is None or card.log_sha256 is None:
        return ()
    path = log_path(weights_path)
    try:
        content = bytes(files.read(path, MAX_LOG_BYTES))
        if hashlib.sha256(content).hexdigest() != card.log_sha256:
            raise TrainingLogError(f"{path} is damaged: its SHA-256 is not the one on the model's card")
        return tuple(_checked(cards.parse(LogEntry, json.loads(line), "a line")) for line in content.splitlines())
    except FileNotFoundError:
        return ()
    except files.UnreadableError as error:
        raise TrainingLogError(str(error)) from error
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise TrainingLogError(f"{path} is not a training log: {first_line(error)}") from error


def _checked(entry: LogEntry) -> LogEntry:
    """Return an entry of a log, or raise a ValueError if a value is out of range."""
    finite = all(map(math.isfinite, (entry.loss, entry.learning_rate, entry.images_per_second)))
    if not (finite and entry.step > 0 and entry.images > 0 and entry.loss >= 0 and 0 <= entry.accuracy <= 1):
        raise ValueError(f"a value of step {entry.step} is out of range")
    return entry
