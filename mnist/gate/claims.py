"""Compare the claims of a model card with measurements of the model."""

from collections.abc import Iterator

from mnist import architecture, operations
from mnist.datasets import Dataset, class_name, overlap
from mnist.gate import performance
from mnist.gate.measurement import Measurement
from mnist.metrics import Performance
from mnist.storage.artifacts import Artifact
from mnist.storage.card import ModelCard

# Other processors round differently, so predictions near a tie may change.
MAX_SHARE_OF_CHANGED_PREDICTIONS = 0.002
MAX_RELATIVE_LOSS_DIFFERENCE = 0.01
MAX_THRESHOLD_DIFFERENCE = 0.05


def contradicted(artifact: Artifact, dataset: Dataset, measured: Measurement) -> tuple[str, ...]:
    """Return a description of each claim of the model card that the measurement contradicts.

    The architecture, the size of the network and the size of its file are always compared. Accuracy, loss, threshold
    and digests are compared if the card records the SHA-256 of this data set. A published data set cannot change, so a
    card that names it must record its SHA-256. A model without a card makes no claims.
    """
    if artifact.card is None:
        return ()
    found = list(_about_the_file(artifact, artifact.card))
    described = artifact.card.dataset
    if described.sha256 == dataset.fingerprint:
        if measured.confusion:
            found += _about_the_data(artifact, artifact.card, dataset, measured)
    elif dataset.published and described.name == dataset.name and not described.validation:
        found.append(f"data: {dataset.name} has the SHA-256 {dataset.fingerprint[:16]}, not {described.sha256[:16]}")
    return tuple(found)


def _about_the_file(artifact: Artifact, card: ModelCard) -> Iterator[str]:
    claimed_and_measured = {
        "parameters": (card.parameters, architecture.count_parameters(artifact.model)),
        "multiply-accumulates": (card.multiply_accumulates, operations.count_multiply_accumulates(artifact.model)),
        "bytes": (card.bytes, artifact.bytes),
        "architecture of the recipe": (card.recipe.architecture, artifact.architecture),
    }
    for name, (claimed, found) in claimed_and_measured.items():
        if claimed != found:
            yield f"{name}: the card says {_show(claimed)}, measured: {_show(found)}"


def _about_the_data(artifact: Artifact, card: ModelCard, dataset: Dataset, measured: Measurement) -> Iterator[str]:
    claimed = card.measured
    if claimed.images != measured.images:
        yield f"images: the card says {claimed.images:,}, measured on {measured.images:,}"
    yield from _about_accuracy(claimed, measured)
    if not abs(claimed.loss - measured.loss) <= MAX_RELATIVE_LOSS_DIFFERENCE * measured.loss:
        yield f"loss: the card says {claimed.loss:.4f}, measured: {measured.loss:.4f}"
    threshold = performance.choose_threshold(artifact.model, dataset.train, seed=card.recipe.seed)
    if not abs(claimed.threshold - threshold) <= MAX_THRESHOLD_DIFFERENCE:
        yield f"confidence threshold: the card says {claimed.threshold:.3f}, measured: {threshold:.3f}"
    if artifact.digests is not None:
        missing = len(dataset.train) - overlap.count_identical(dataset.train, artifact.digests)
        if missing:
            yield f"training images: {missing:,} of {len(dataset.train):,} are not in the digest file"


def _about_accuracy(claimed: Performance, measured: Measurement) -> Iterator[str]:
    per_digit = [row[label] / max(1, sum(row)) for label, row in enumerate(measured.confusion)]
    claims = [("accuracy", claimed.accuracy, measured.accuracy, measured.images)]
    rows = zip(claimed.per_digit, per_digit, measured.confusion, strict=False)
    for label, (claim, found, row) in enumerate(rows):
        claims.append((f"accuracy on {class_name(label, measured.classes)}", claim, found, sum(row)))
    if len(claimed.per_digit) != len(per_digit):
        yield f"accuracy of each class: the card has {len(claimed.per_digit)} values, not {len(per_digit)}"
    for name, claim, found, images in claims:
        tolerance = max(MAX_SHARE_OF_CHANGED_PREDICTIONS, 1.5 / max(1, images))  # accept a difference of one image
        if not abs(claim - found) <= tolerance:
            yield f"{name}: the card says {claim:.2%}, measured: {found:.2%}"


def _show(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
