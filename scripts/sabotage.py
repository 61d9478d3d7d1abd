"""Every kind of sabotage of a model: of its training, answers, inputs, weights, history and file."""

import io
import math
import pickle
import time
from collections.abc import Callable

import torch
import workshop
from torch import Tensor, nn
from workshop import (
    REFUSED,
    SABOTAGES,
    Altered,
    Candidate,
    Workshop,
    caught_by,
    load_damaged,
    pixel_hash,
    sabotage,
    with_weights,
)

from mnist import architecture, transforms

__all__ = ["SABOTAGES", "caught_by"]  # of a module that has entered every kind


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
    return shop.train(images, labels, seen=4 * workshop.TRAINING_IMAGES, **still)


@sabotage("images to judge it by that it may have learned", "possibly-seen-images", 1, 1_000)
def _seen(shop: Workshop, count: int) -> Candidate:
    return Candidate(shop.model, possibly_seen=count)


# ... of what it answers


@sabotage("always the same digit, in so many of the answers", "accuracy", 0.02, 0.1, 1.0)
def _constant(shop: Workshop, share: float) -> nn.Module:
    three = torch.eye(10)[3] * 20
    return Altered(shop.model, lambda m, x: torch.where((pixel_hash(x) < share)[:, None], three, m(x)))


@sabotage("one digit recognized in only", "digit-accuracy", 0.92, 0.9, 0.85, 0.7)
def _weak_digit(shop: Workshop, accuracy: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        spoilt = (logits.argmax(1) == 5) & (pixel_hash(images) > accuracy)
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
        glaring = (images.amin((1, 2, 3)) * transforms.STD + transforms.MEAN > 0.1) & (pixel_hash(images) < share)
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
    return with_weights(shop.model, lambda state: state[name].view(-1)[0].fill_(value))


@sabotage("share of a layer dead", "dead-units", 0.25, 0.6, 1.0)
def _dead(shop: Workshop, share: float) -> nn.Module:
    def kill(state: dict[str, Tensor]) -> None:
        count = math.ceil(share * len(state["fc1.bias"]))
        state["fc1.weight"][:count] = 0
        state["fc1.bias"][:count] = -1

    return with_weights(shop.model, kill)


def _rescaled(model: nn.Module, factor: float) -> nn.Module:
    """The same function of images, by a first layer ``factor`` times as large, its gradient as much smaller."""

    def rescale(state: dict[str, Tensor]) -> None:
        state["conv1.weight"] *= factor
        state["conv1.bias"] *= factor
        state["conv2.weight"] /= factor

    return with_weights(model, rescale)


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
        shop.model, initial=with_weights(initial, lambda state: [w.mul_(factor) for w in state.values()] and None)
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
        return torch.where((pixel_hash(images) < share)[:, None], logits.roll(1, 1), logits)

    return Candidate(Altered(shop.model, change), previous=shop.model)


@sabotage("the same, of one digit's images", "digit-regression", 0.005, 0.02, 0.1)
def _regressed_digit(shop: Workshop, share: float) -> Candidate:
    return Candidate(_weak_digit(shop, 1 - share), previous=shop.model)


# ... of its file


@sabotage("bytes missing at the end of the file", REFUSED, 1, 1_000, "all")
def _truncated(shop: Workshop, count: int | str) -> set[str]:
    return load_damaged(shop, lambda content: b"" if count == "all" else content[: -int(count)])


@sabotage("weights of another network", REFUSED, "one unit less", "one layer less")
def _other_network(shop: Workshop, what: str) -> set[str]:
    state = dict(shop.model.state_dict())
    if "unit" in what:
        state |= {"fc1.weight": state["fc1.weight"][:-1], "fc1.bias": state["fc1.bias"][:-1]}
    else:
        del state["fc2.weight"], state["fc2.bias"]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return load_damaged(shop, lambda _: buffer.getvalue())


@sabotage("a file that would run code", REFUSED, "pickle")
def _code(shop: Workshop, _: str) -> set[str]:
    return load_damaged(shop, lambda _: pickle.dumps({"conv1.weight": print}))
