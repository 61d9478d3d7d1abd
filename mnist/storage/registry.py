"""List the models in a folder, and the decisions about them in the gate's reports.

A report belongs to a model if it records the SHA-256 of the model's weights file. If a model has several reports, the
newest one counts.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mnist import files
from mnist.errors import MnistError
from mnist.storage import artifacts
from mnist.storage import card as cards
from mnist.storage.artifacts import Artifact
from mnist.storage.card import ModelCard
from mnist.storage.state_dicts import MAX_WEIGHTS_BYTES

MAX_REPORT_BYTES = 10_000_000
SHIP, BLOCK, NOT_JUDGED = "ship", "block", "not judged"


@dataclass(frozen=True)
class Judgement:
    """The decision of a report about a model."""

    decision: str  # SHIP or BLOCK
    created: str  # UTC, ISO 8601
    report: Path  # report.json
    policy: str = ""  # path of the policy
    policy_sha256: str = ""  # SHA-256 of the policy file, hexadecimal; empty: unknown
    card_sha256: str | None = ""  # SHA-256 of the judged model's card; None: the model had no card; empty: unknown


@dataclass(frozen=True)
class Entry:
    """A model in a folder."""

    path: Path
    bytes: int  # size of the weights file
    sha256: str  # SHA-256 of the weights file, hexadecimal
    card: ModelCard | None
    judgement: Judgement | None  # None: the gate has never judged it
    problem: str = ""  # why the weights or the card cannot be read

    @property
    def decision(self) -> str:
        """SHIP, BLOCK or NOT_JUDGED.

        A model counts as not judged if its weights or card are damaged, or if its card has changed since it was judged.
        """
        card_sha256 = self.card.card_sha256 if self.card else None
        if self.judgement is None or self.problem or self.judgement.card_sha256 not in ("", card_sha256):
            return NOT_JUDGED
        return self.judgement.decision


def judgements(reports_dir: Path) -> dict[str, Judgement]:
    """Return each model's newest judgement among all reports in a folder, keyed by the SHA-256 of the weights."""
    found: dict[str, Judgement] = {}
    for path in sorted(reports_dir.glob("*/report.json")) if reports_dir.is_dir() else ():
        try:
            content = json.loads(files.read(path, MAX_REPORT_BYTES))
            # Reports of schema 3 and earlier have the SHA-256 only in the card, and no creation time.
            sha256, decision = str(content.get("sha256") or content["card"]["sha256"]), content["decision"]
            created, policy = str(content.get("created", "")), dict(content.get("policy", {}))
            card = content.get("card", {"card_sha256": ""})
            card_sha256 = None if card is None else str(card.get("card_sha256", ""))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError, MnistError):
            continue
        if decision in (SHIP, BLOCK) and (sha256 not in found or found[sha256].created <= created):
            policy_path, policy_sha256 = str(policy.get("path", "")), str(policy.get("sha256", ""))
            found[sha256] = Judgement(decision, created, path, policy_path, policy_sha256, card_sha256)
    return found


def entries(models_dir: Path, reports_dir: Path) -> Iterator[Entry]:
    """Yield the models in a folder, newest first.

    Files that are not named like the weights files of ``mnist train`` are ignored.
    """
    known = judgements(reports_dir)
    for path in artifacts.newest_first(models_dir):
        weights, card, problem = b"", None, ""
        try:
            weights = bytes(files.read(path, MAX_WEIGHTS_BYTES))
            card = cards.read(cards.card_path(path))
        except (MnistError, OSError) as error:
            problem = files.explain(error) if isinstance(error, OSError) else str(error)
        sha256 = hashlib.sha256(weights).hexdigest()
        if card and card.sha256 != sha256:
            problem = f"{path} is damaged: its SHA-256 is not the one on its card"
        yield Entry(path, len(weights), sha256, card, known.get(sha256), problem)


def choose(models_dir: Path, reports_dir: Path) -> tuple[Path, str]:
    """Return the newest model that passed the gate, and a message.

    The message is empty, or says that a newer model did not pass. If no model has passed, return the newest one and a
    warning.

    Raises:
        ArtifactError: if there is no model.
    """
    newest: Entry | None = None
    for entry in entries(models_dir, reports_dir):
        newest = newest or entry
        if entry.decision == SHIP:
            if entry is newest:
                return entry.path, ""
            return (
                entry.path,
                f"{newest.path} is newer, but {_state(newest)}; using the newest model that passed",
            )
    if newest is None:
        return artifacts.require_newest(models_dir), ""  # raises the error
    return newest.path, f"WARNING: no model in {models_dir} has passed the gate: {newest.path} {_state(newest)}"


def _state(entry: Entry) -> str:
    if entry.problem:
        return f"is damaged ({entry.problem})"
    if entry.judgement is None or entry.decision == NOT_JUDGED:
        return f"has not been judged (judge it: mnist gate {entry.path})"
    return f"was blocked ({entry.judgement.report})"


def load(
    path: Path | None, models_dir: Path, reports_dir: Path, min_confidence: float | None = None
) -> tuple[Artifact, str]:
    """Load the model at ``path``, or by default the model that :func:`choose` returns, and return it with a message.

    Args:
        min_confidence: replaces the model's confidence threshold.

    Raises:
        ArtifactError: if there is no model, or it cannot be loaded.
        ThresholdError: if ``min_confidence`` is not between 0 and 1.
    """
    chosen, message = (path, "") if path else choose(models_dir, reports_dir)
    return dataclasses.replace(artifacts.load(chosen), min_confidence=min_confidence), message
