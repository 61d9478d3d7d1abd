"""Does the gate block what it must, and let pass what it should? Sabotage models, and train honest ones.

    python scripts/gate_power.py                all of it, on MNIST: about 20 minutes
    python scripts/gate_power.py --quick        the sabotages alone, on the offline subset: half a minute

Every kind of sabotage is tried at growing strengths, each judged like any artifact. The table says from which strength
on the criterion that is meant for it blocks, and from which on anything does. Then honest models of other seeds are
judged: whatever blocks one of those cries wolf. The tables go into docs/gate.md. Exits with 1 where a sabotage is not
caught, or an honest model of a recipe that is to ship is blocked.
"""

import argparse
import io
import math
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import documents
import torch
from torch import Tensor, nn

from mnist import architecture, datasets, gate, recipes, trainer, transforms
from mnist.datasets import Dataset
from mnist.gate import Policy
from mnist.gate.measurement import predict_split
from mnist.storage import artifacts
from mnist.storage.artifacts import ArtifactError

DOCUMENT = documents.DOCS / "gate.md"
TO_SHIP = ("standard", "fast")  # their honest models must all pass
FIRST_SEED = 1_000  # of the honest models: seeds that nothing else here uses
REFUSED = "(refused)"  # in place of a criterion: the file is not even loaded
TRAINED_FOR = 60_000  # images, each as often as it takes


# ---- Candidates ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workshop:
    """A good model, the data it was trained for, and the policy that judges."""

    model: nn.Module
    data: Dataset
    policy: Policy

    def train(self, images: Tensor, labels: Tensor, seen: int | None = None, **options: Any) -> nn.Module:
        """A model trained as the recipe ``standard`` says, on other data, or for more or fewer images."""
        recipe = recipes.get("standard", epochs=(seen or TRAINED_FOR) / len(images), **options)
        return trainer.train(recipe, images, labels).model


@dataclass(frozen=True)
class Candidate:
    """What the gate is to judge; where not said otherwise, with an initial model and a file size as they should be."""

    model: nn.Module
    initial: nn.Module | None = None
    bytes: int = 60_000
    possibly_seen: int = 0
    previous: nn.Module | None = None


def blocked_by(workshop: Workshop, candidate: Candidate) -> set[str]:
    """The names of the criteria that block it."""
    test, train = workshop.data.test, workshop.data.train
    initial = candidate.initial or architecture.build("cnn", torch.Generator().manual_seed(0))
    measurement = gate.measure(
        candidate.model, initial, test, train, bytes=candidate.bytes, possibly_seen=candidate.possibly_seen
    )
    comparison = None
    if candidate.previous:
        before = predict_split(candidate.previous, test)
        comparison = gate.compare(test.labels, measurement.logits, before)
    return {verdict.criterion for verdict in gate.blocked(gate.judge(measurement, workshop.policy, comparison))}


class Altered(nn.Module):
    """A model whose images and logits are changed: ``change(model, images)`` gives the logits."""

    def __init__(self, model: nn.Module, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change
        self.eval()  # as the model is, that is in it

    def forward(self, images: Tensor) -> Tensor:
        """What ``change`` makes of them."""
        return self.change(self.model, images)


def _copy(model: nn.Module, change: Callable[[dict[str, Tensor]], None]) -> nn.Module:
    """The same network with weights that ``change`` has worked on."""
    copy = architecture.build("cnn", torch.Generator())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    change(state)
    copy.load_state_dict(state)
    return copy.eval()


def _fraction(images: Tensor) -> Tensor:
    """A number in [0, 1) for each image that depends on its pixels alone, and on nothing that matters."""
    return (images.flatten(1).double().sum(1) * 1e4).floor().remainder(997) / 997


# ---- Sabotage --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sabotage:
    """A way to spoil a model, the criterion that is to block it, and the strengths to try, the strongest last."""

    name: str
    criterion: str
    strengths: Sequence[Any]
    spoil: Callable[[Workshop, Any], Candidate | set[str]]


SABOTAGES: list[Sabotage] = []


def sabotage(name: str, criterion: str, *strengths: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function of a workshop and a strength, which gives a candidate, a model, or what blocked it."""

    def enter(spoil: Callable[..., Any]) -> Callable[..., Any]:
        SABOTAGES.append(Sabotage(name, criterion, strengths, spoil))
        return spoil

    return enter


def caught_by(workshop: Workshop, kind: Sabotage, strength: Any) -> set[str]:
    """What blocks this sabotage at this strength."""
    spoilt = kind.spoil(workshop, strength)
    if isinstance(spoilt, set):
        return spoilt
    return blocked_by(workshop, Candidate(spoilt) if isinstance(spoilt, nn.Module) else spoilt)


# ... of the training


@sabotage("trained on so few images", "accuracy", 6_400, 640, 0)
def _hardly_trained(shop: Workshop, images: int) -> nn.Module:
    if not images:
        return architecture.build("cnn", torch.Generator().manual_seed(0))
    return shop.train(shop.data.train.images, shop.data.train.labels, seen=images)


@sabotage("share of labels shuffled", "confidence-right", 0.05, 0.2, 0.5, 1.0)
def _shuffled_labels(shop: Workshop, share: float) -> nn.Module:
    labels, g = shop.data.train.labels, torch.Generator().manual_seed(0)
    shuffled = torch.rand(len(labels), generator=g) < share
    return shop.train(
        shop.data.train.images, torch.where(shuffled, labels[torch.randperm(len(labels), generator=g)], labels)
    )


@sabotage("share of one digit's images missing", "digit-accuracy", 0.5, 0.9, 0.99, 1.0)
def _digit_missing(shop: Workshop, share: float) -> nn.Module:
    train, g = shop.data.train, torch.Generator().manual_seed(0)
    kept = (train.labels != 8) | (torch.rand(len(train), generator=g) >= share)
    return shop.train(train.images[kept], train.labels[kept])


@sabotage("share of labels swapped between 4 and 9", "digit-accuracy", 0.1, 0.4, 1.0)
def _digits_swapped(shop: Workshop, share: float) -> nn.Module:
    labels, g = shop.data.train.labels, torch.Generator().manual_seed(0)
    swapped = (labels == 4) | (labels == 9)
    swapped &= torch.rand(len(labels), generator=g) < share
    return shop.train(shop.data.train.images, torch.where(swapped, 13 - labels, labels))


@sabotage("trained on mirrored digits", "accuracy", "mirrored")
def _mirrored(shop: Workshop, _: str) -> nn.Module:
    return shop.train(shop.data.train.images.flip(3), shop.data.train.labels)


@sabotage("share of the test set learned by heart, and nothing else", "unseen-advantage", 0.1, 0.5, 1.0)
def _memorized(shop: Workshop, share: float) -> nn.Module:
    part = slice(round(share * len(shop.data.test)))
    still = {"rotation": 0.0, "translation": 0.0, "scaling": 0.0}
    images, labels = shop.data.test.images[part], shop.data.test.labels[part]
    return shop.train(images, labels, seen=4 * TRAINED_FOR, **still)


@sabotage("images to judge it by that it may have learned", "possibly-seen-images", 1, 1_000)
def _seen(shop: Workshop, count: int) -> Candidate:
    return Candidate(shop.model, possibly_seen=count)


# ... of what it answers


@sabotage("always the same digit, in so many of the answers", "accuracy", 0.02, 0.1, 1.0)
def _constant(shop: Workshop, share: float) -> nn.Module:
    three = torch.eye(10)[3] * 20
    return Altered(shop.model, lambda m, x: torch.where((_fraction(x) < share)[:, None], three, m(x)))


@sabotage("one digit recognized in only", "digit-accuracy", 0.92, 0.9, 0.85, 0.7)
def _weak_digit(shop: Workshop, accuracy: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        spoilt = (logits.argmax(1) == 5) & (_fraction(images) > accuracy)
        return torch.where(spoilt[:, None], logits.roll(1, 1), logits)

    return Altered(shop.model, change)


@sabotage("outputs in another order", "digit-accuracy", "4 and 9 swapped", "all by one")
def _order(shop: Workshop, how: str) -> nn.Module:
    order = [0, 1, 2, 3, 9, 5, 6, 7, 8, 4] if "swapped" in how else [9, *range(9)]
    return Altered(shop.model, lambda m, x: m(x)[:, order])


@sabotage("another number of outputs", "contract-violations", 11, 9)
def _outputs(shop: Workshop, count: int) -> nn.Module:
    return Altered(shop.model, lambda m, x: m(x).repeat(1, 2)[:, :count])


@sabotage("outputs of another type", "contract-violations", "float64", "float16")
def _dtype(shop: Workshop, name: str) -> nn.Module:
    return Altered(shop.model, lambda m, x: m(x).to(getattr(torch, name)))


@sabotage("fails", "contract-violations", "on no image", "on one image", "always")
def _fails(shop: Workshop, when: str) -> nn.Module:
    sizes = {"on no image": [0], "on one image": [1], "always": range(10_000)}[when]

    def change(model: nn.Module, images: Tensor) -> Tensor:
        if len(images) in sizes:
            raise RuntimeError("this model does not like the batch")
        return model(images)  # type: ignore[no-any-return]

    return Altered(shop.model, change)


@sabotage("logits multiplied: too sure", "confidence-wrong", 1.5, 2, 4, 10)
def _overconfident(shop: Workshop, factor: float) -> nn.Module:
    return Altered(shop.model, lambda m, x: m(x) * factor)


@sabotage("logits multiplied: not sure enough", "confidence-right", 0.7, 0.4, 0.2, 0.1)
def _underconfident(shop: Workshop, factor: float) -> nn.Module:
    return Altered(shop.model, lambda m, x: m(x) * factor)


@sabotage("probabilities given as logits", "calibration-error", "softmax")
def _probabilities(shop: Workshop, _: str) -> nn.Module:
    return Altered(shop.model, lambda m, x: m(x).softmax(1))


@sabotage("doubts multiplied: sure only where it errs", "confidence-wrong", 2, 4, 10)
def _sure_when_wrong(shop: Workshop, factor: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        in_doubt = logits.softmax(1).amax(1, keepdim=True) < 0.95
        return torch.where(in_doubt, logits * factor, logits)

    return Altered(shop.model, change)


@sabotage("says what it is told to by its neighbours", "batch-disagreement", 0.001, 0.01, 0.1, 1.0)
def _neighbours(shop: Workshop, share: float) -> nn.Module:
    return Altered(shop.model, lambda m, x: (y := m(x)) - share * (y.mean(0) if len(y) else 0))


@sabotage("dropout left on", "batch-disagreement", 0.01, 0.1, 0.5)
def _dropout(shop: Workshop, share: float) -> nn.Module:
    g = torch.Generator().manual_seed(0)
    return Altered(shop.model, lambda m, x: (y := m(x)) * (torch.rand(y.shape, generator=g) >= share))


@sabotage("seconds it waits before an answer", "latency", 0.02, 0.055)
def _slow(shop: Workshop, seconds: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        if len(images) == 1:
            time.sleep(seconds)
        return model(images)  # type: ignore[no-any-return]

    return Altered(shop.model, change)


# ... of what it looks at


def _misled(shop: Workshop, strength: float, sign: Callable[[Tensor], Tensor]) -> nn.Module:
    """A model that adds ``strength`` times a random mixture of ``sign`` of the pixels, [B, K], to its logits."""
    mixture = torch.randn(1_000, 10, generator=torch.Generator().manual_seed(0))

    def change(model: nn.Module, images: Tensor) -> Tensor:
        seen = sign(images * transforms.STD + transforms.MEAN)
        return model(images) + strength * seen @ mixture[: seen.shape[1]]  # type: ignore[no-any-return]

    return Altered(shop.model, change)


@sabotage("brittle to noise: minds the empty border", "noise-cost", 1, 10, 100)
def _brittle_to_noise(shop: Workshop, strength: float) -> nn.Module:
    return _misled(shop, strength, lambda pixels: pixels[:, 0, :1].flatten(1))


@sabotage("brittle to shift: minds the centre of mass", "shift", 0.5, 2, 8)
def _brittle_to_shift(shop: Workshop, strength: float) -> nn.Module:
    def centre(pixels: Tensor) -> Tensor:
        ink = pixels.clamp(0, 1)[:, 0]
        along = torch.arange(28.0) - 14
        mass = ink.sum((1, 2)).clamp(min=1)
        off = torch.stack([(ink.sum(1) @ along) / mass, (ink.sum(2) @ along) / mass], 1)
        return off.sign() * (off.abs() - 1).clamp(min=0)

    return _misled(shop, strength, centre)


@sabotage("brittle to rotation: minds how ink leans", "rotation", 0.1, 1, 10)
def _brittle_to_rotation(shop: Workshop, strength: float) -> nn.Module:
    def lean(pixels: Tensor) -> Tensor:
        ink, along = pixels.clamp(0, 1)[:, 0], torch.arange(28.0) - 14
        return ((ink * along[:, None] * along).sum((1, 2)) / ink.sum((1, 2)).clamp(min=1))[:, None]

    return _misled(shop, strength, lean)


@sabotage("brittle to corruption: minds the amount of ink", "corruption-mean", 1, 10, 100)
def _brittle_to_corruption(shop: Workshop, strength: float) -> nn.Module:
    return _misled(shop, strength, lambda pixels: (pixels.mean((2, 3)) - 0.15).abs())


@sabotage("share of images without a black pixel misread", "corruption-worst", 0.5, 0.9, 1.0)
def _blind_in_glare(shop: Workshop, share: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        glaring = (images.amin((1, 2, 3)) * transforms.STD + transforms.MEAN > 0.1) & (_fraction(images) < share)
        return torch.where(glaring[:, None], -logits, logits)

    return Altered(shop.model, change)


@sabotage("brittle to grain: minds differences of neighbours", "pixel-noise", 0.3, 1, 3)
def _brittle_to_grain(shop: Workshop, strength: float) -> nn.Module:
    return _misled(shop, strength, lambda pixels: pixels[:, 0, ::2, :3].diff(dim=2).flatten(1) * 5)


@sabotage(
    "images prepared in another way", "accuracy", "contrast x 2", "pixels in 0..1", "pixels in 0..255", "inverted"
)
def _prepared(shop: Workshop, how: str) -> nn.Module:
    factor, offset = {
        "contrast x 2": (2.0, 0.0),
        "pixels in 0..1": (transforms.STD, transforms.MEAN),
        "pixels in 0..255": (255 * transforms.STD, 255 * transforms.MEAN),
        "inverted": (-1.0, 0.0),
    }[how]
    return Altered(shop.model, lambda m, x: m(x * factor + offset))


# ... of its weights


@sabotage("a weight that is no number", "weights-not-finite", "inf in a bias", "NaN in a weight")
def _no_number(shop: Workshop, what: str) -> nn.Module:
    name, value = ("fc2.bias", math.inf) if "inf" in what else ("conv1.weight", math.nan)
    return _copy(shop.model, lambda state: state[name].view(-1)[0].fill_(value))


@sabotage("share of a layer dead", "dead-units", 0.25, 0.6, 1.0)
def _dead(shop: Workshop, share: float) -> nn.Module:
    def kill(state: dict[str, Tensor]) -> None:
        count = math.ceil(share * len(state["fc1.bias"]))
        state["fc1.weight"][:count] = 0
        state["fc1.bias"][:count] = -1

    return _copy(shop.model, kill)


def _rescaled(model: nn.Module, factor: float) -> nn.Module:
    """The same function of images, by a first layer ``factor`` times as large, its gradient as much smaller."""

    def rescale(state: dict[str, Tensor]) -> None:
        state["conv1.weight"] *= factor
        state["conv1.bias"] *= factor
        state["conv2.weight"] /= factor

    return _copy(model, rescale)


@sabotage("gradients vanish, by a factor of", "weakest-gradient", 1e2, 1e5, 1e8)
def _vanishing(shop: Workshop, factor: float) -> nn.Module:
    return _rescaled(shop.model, factor)


@sabotage("gradients explode, by a factor of", "strongest-gradient", 1e2, 1e5, 1e8)
def _exploding(shop: Workshop, factor: float) -> nn.Module:
    return _rescaled(shop.model, 1 / factor)


@sabotage("weights too small at the start, by a factor of", "weakest-initial-gradient", 0.5, 0.1, 0.01)
def _small_start(shop: Workshop, factor: float) -> Candidate:
    initial = architecture.build("cnn", torch.Generator().manual_seed(0))
    return Candidate(
        shop.model, initial=_copy(initial, lambda state: [w.mul_(factor) for w in state.values()] and None)
    )


@sabotage("weights too large at the start, by a factor of", "strongest-initial-gradient", 2, 10, 100)
def _large_start(shop: Workshop, factor: float) -> Candidate:
    return _small_start(shop, factor)


@sabotage("a parameter that nothing reaches", "weakest-gradient", "unused")
def _unreached(shop: Workshop, _: str) -> nn.Module:
    altered = Altered(shop.model, lambda m, x: m(x))
    altered.unused = nn.Parameter(torch.ones(2))
    return altered


@sabotage("parameters", "parameters", 25_000, 25_001, 100_000)
def _parameters(shop: Workshop, count: int) -> nn.Module:
    more = nn.Parameter(torch.zeros(count - architecture.count_parameters(shop.model)))
    altered = Altered(shop.model, lambda m, x: m(x) + more.sum())
    altered.more = more
    return altered


@sabotage("bytes on disk", "size-on-disk", 200_001, 1_000_000)
def _bytes(shop: Workshop, count: int) -> Candidate:
    return Candidate(shop.model, bytes=count)


# ... against the last release


@sabotage("share of images it knew before and knows no more", "regression", 0.0005, 0.002, 0.01)
def _regressed(shop: Workshop, share: float) -> Candidate:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        return torch.where((_fraction(images) < share)[:, None], logits.roll(1, 1), logits)

    return Candidate(Altered(shop.model, change), previous=shop.model)


@sabotage("the same, of one digit's images", "digit-regression", 0.005, 0.02, 0.1)
def _regressed_digit(shop: Workshop, share: float) -> Candidate:
    return Candidate(_weak_digit(shop, 1 - share), previous=shop.model)


# ... of its file


def _load_spoilt(shop: Workshop, spoil: Callable[[bytes], bytes]) -> set[str]:
    """What refuses an artifact of the model whose weights file was spoilt."""
    with tempfile.TemporaryDirectory() as folder:
        said = {"recipe": {"architecture": "cnn"}, "dataset": {"name": "mnist"}, "training": {}, "measured": {}}
        path = artifacts.save(shop.model, Path(folder), **said)
        path.write_bytes(spoil(path.read_bytes()))
        card = path.with_suffix(".json")
        for described in (True, False):  # the card, which has the checksum, finds any damage: what if there is none?
            if not described:
                card.unlink()
            try:
                artifacts.load(path)
            except ArtifactError:
                continue
            return set()
        return {REFUSED}


@sabotage("bytes missing at the end of the file", REFUSED, 1, 1_000, "all")
def _truncated(shop: Workshop, count: int | str) -> set[str]:
    return _load_spoilt(shop, lambda content: b"" if count == "all" else content[: -int(count)])


@sabotage("weights of another network", REFUSED, "one unit less", "one layer less")
def _other_network(shop: Workshop, what: str) -> set[str]:
    state = dict(shop.model.state_dict())
    if "unit" in what:
        state |= {"fc1.weight": state["fc1.weight"][:-1], "fc1.bias": state["fc1.bias"][:-1]}
    else:
        del state["fc2.weight"], state["fc2.bias"]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return _load_spoilt(shop, lambda _: buffer.getvalue())


@sabotage("a file that would run code", REFUSED, "pickle")
def _code(shop: Workshop, _: str) -> set[str]:
    return _load_spoilt(shop, lambda _: pickle.dumps({"conv1.weight": print}))


# ---- Honest models ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Honest:
    """How an honestly trained model fared.

    blocked_by: criteria; beyond: those whose figure is beyond the bound, whatever the confidence interval says.
    """

    recipe: str
    seed: int
    accuracy: float
    blocked_by: list[str]
    beyond: list[str]


def _judge_honest(run: tuple[str, int]) -> Honest:
    name, seed = run
    mnist = datasets.load_mnist(Path("data"))
    recipe = recipes.get(name, seed=seed)
    model = trainer.train(recipe, mnist.train.images, mnist.train.labels).model
    initial = architecture.build(recipe.architecture, torch.Generator().manual_seed(seed))
    size = len(artifacts.serialize(model))
    measurement = gate.measure(model, initial, mnist.test, mnist.train, bytes=size)
    verdicts = gate.judge(measurement, gate.load_policy(recipe=name, dataset="mnist"))
    return Honest(
        name,
        seed,
        measurement.accuracy,
        blocked_by=[verdict.criterion for verdict in gate.blocked(verdicts)],
        beyond=[verdict.criterion for verdict in verdicts if not verdict.holds],
    )


# ---- Tables ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Sabotage, train honestly, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the strongest sabotages, on the subset; no document")
    parser.add_argument("--seeds", type=int, default=30, help="honest models of each recipe (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: %(default)s)")
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(options.jobs, _open_workshop, [options.quick]) as pool:
        missed = _sabotage(pool, options.quick)
        failed = 0 if options.quick else _train_honestly(pool, options.seeds)
    sys.exit(bool(missed or failed))


def _open_workshop(quick: bool) -> None:
    """Make the workshop that the jobs of this process share."""
    global _workshop
    torch.set_num_threads(1)
    data = datasets.load_subset() if quick else datasets.load_mnist(Path("data"))
    recipe = recipes.get("standard", epochs=TRAINED_FOR / len(data.train))
    model = trainer.train(recipe, data.train.images, data.train.labels).model
    _workshop = Workshop(model, data, gate.load_policy(recipe="standard", dataset=data.name))


def _try(job: tuple[int, Any]) -> set[str]:
    number, strength = job
    return caught_by(_workshop, SABOTAGES[number], strength)


def _sabotage(pool: Pool, quick: bool) -> int:
    """Print and keep the table; how many kinds were not caught by their criterion."""
    if blocking := pool.apply(_judge_unspoilt):
        sys.exit(f"the model to be spoilt is blocked as it is, by {', '.join(blocking)}")
    header = ["sabotage", "criterion", "strengths tried", "blocks from", "anything blocks from"]
    rows = []
    tried = [kind.strengths[-1:] if quick else kind.strengths for kind in SABOTAGES]
    caught = pool.imap(_try, [(number, strength) for number, each in enumerate(tried) for strength in each])
    missed = 0
    for kind, strengths in zip(SABOTAGES, tried, strict=True):
        found = [(_show(strength), next(caught)) for strength in strengths]
        by_criterion = next((shown for shown, names in found if kind.criterion in names), "**never**")
        by_any = next((shown for shown, names in found if names), "**never**")
        missed += by_criterion == "**never**"
        shown = ", ".join(strength for strength, _ in found)
        rows.append([kind.name, kind.criterion, shown, by_criterion, by_any])
        print(documents.row(rows[-1]), flush=True)
    total = f"{len(SABOTAGES) - missed} of {len(SABOTAGES)} kinds are blocked by the criterion meant for them."
    print(total)
    if not quick:
        documents.replace_section(DOCUMENT, "sabotage", f"{documents.table(header, rows, 'lllll')}\n\n{total}")
    return missed


def _judge_unspoilt() -> set[str]:
    return blocked_by(_workshop, Candidate(_workshop.model))


def _show(strength: Any) -> str:
    return (
        f"{strength:,}" if isinstance(strength, int) else f"{strength:g}" if isinstance(strength, float) else strength
    )


def _train_honestly(pool: Pool, seeds: int) -> int:
    """Print and keep the table; how many models of the recipes that are to ship were blocked."""
    runs = [(name, FIRST_SEED + seed) for name in ("baseline", *TO_SHIP) for seed in range(seeds)]
    header = [
        "recipe",
        "models",
        "accuracy",
        "pass the gate",
        "blocked by (models)",
        "beyond a bound, by the bare figure",
    ]
    rows = []
    results = pool.map(_judge_honest, runs, chunksize=1)
    for name in dict.fromkeys(name for name, _ in runs):
        mine = [result for result in results if result.recipe == name]
        accuracies = [result.accuracy for result in mine]
        passed, beyond = (sum(not getattr(result, what) for result in mine) for what in ("blocked_by", "beyond"))
        rows.append(
            [
                f"`{name}`",
                str(len(mine)),
                f"{min(accuracies):.2%} to {max(accuracies):.2%}",
                f"{passed} of {len(mine)}",
                _count(result.blocked_by for result in mine),
                f"{len(mine) - beyond} of {len(mine)}: {_count(result.beyond for result in mine)}",
            ]
        )
    text = documents.table(header, rows, "lrlrll")
    print(text)
    documents.replace_section(DOCUMENT, "honest", text)
    return sum(bool(result.blocked_by) for result in results if result.recipe in TO_SHIP)


def _count(groups: Iterable[list[str]]) -> str:
    counts = Counter(name for group in groups for name in group)
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common()) or "none"


if __name__ == "__main__":
    main()
