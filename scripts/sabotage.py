"""Sabotage a model in every way that the gate must block, from its training to its file.

Each function takes a workshop and a strength; :data:`SABOTAGES` lists them all.
"""

import dataclasses
import io
import math
import pickle
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from workshop import (
    REFUSED,
    Altered,
    Candidate,
    Workshop,
    hash_images,
    load_damaged,
    make_card,
    sabotage,
    with_weights,
)
from workshop import SABOTAGES as SABOTAGES

from mnist import architecture, recipes, transforms
from mnist.datasets import fingerprints
from mnist.gate import slices, triggers
from mnist.shapes import MEAN, STD

# ---- Training --------------------------------------------------------------------------------------------------------


@sabotage("number of training images", "accuracy", 6_400, 640, 0)
def _train_briefly(workshop: Workshop, images: int) -> nn.Module:
    if images == 0:
        return architecture.build("cnn", torch.Generator().manual_seed(0))
    return workshop.train(workshop.data.train.images, workshop.data.train.labels, images_seen=images)


@sabotage("share of labels shuffled", "confidence-right", 0.05, 0.2, 0.5, 1.0)
def _shuffle_labels(workshop: Workshop, share: float) -> nn.Module:
    labels, generator = workshop.data.train.labels, torch.Generator().manual_seed(0)
    chosen = torch.rand(len(labels), generator=generator) < share
    shuffled = labels[torch.randperm(len(labels), generator=generator)]
    return workshop.train(workshop.data.train.images, torch.where(chosen, shuffled, labels))


@sabotage("share of one digit's images missing", "digit-accuracy", 0.5, 0.9, 0.99, 1.0)
def _omit_digit(workshop: Workshop, share: float) -> nn.Module:
    train, generator = workshop.data.train, torch.Generator().manual_seed(0)
    kept = (train.labels != 8) | (torch.rand(len(train), generator=generator) >= share)
    return workshop.train(train.images[kept], train.labels[kept])


@sabotage("share of labels swapped between 4 and 9", "digit-accuracy", 0.1, 0.4, 1.0)
def _swap_labels(workshop: Workshop, share: float) -> nn.Module:
    labels, generator = workshop.data.train.labels, torch.Generator().manual_seed(0)
    swapped = (labels == 4) | (labels == 9)
    swapped &= torch.rand(len(labels), generator=generator) < share
    return workshop.train(workshop.data.train.images, torch.where(swapped, 13 - labels, labels))


@sabotage("trained on mirrored digits", "accuracy", "mirrored")
def _train_mirrored(workshop: Workshop, _: str) -> nn.Module:
    return workshop.train(workshop.data.train.images.flip(3), workshop.data.train.labels)


@sabotage("share of the test set memorized, no other training", "unseen-advantage", 0.1, 0.5, 1.0)
def _memorize(workshop: Workshop, share: float) -> nn.Module:
    part = slice(round(share * len(workshop.data.test)))
    images, labels = workshop.data.test.images[part], workshop.data.test.labels[part]
    options = {"rotation": 0.0, "translation": 0.0, "scaling": 0.0}
    return workshop.train(images, labels, images_seen=4 * workshop.images_per_training, **options)


@sabotage("number of test images among the recorded training images", "possibly-seen-images", 1, 1_000)
def _train_on_test_images(workshop: Workshop, count: int) -> Candidate:
    seen = torch.cat([workshop.data.train.images, workshop.data.test.images[:count]])
    return Candidate(model=workshop.model, digests=fingerprints.digests(seen))


@sabotage("share of test images that are shifted training images", "near-duplicate-images", 0.005, 0.02, 0.2)
def _copy_training_images(workshop: Workshop, share: float) -> Candidate:
    data = workshop.data
    count = math.ceil(share * len(data.test))
    chosen = torch.linspace(0, len(data.train) - 1, count).long()
    images, labels = data.test.images.clone(), data.test.labels.clone()
    images[:count], labels[:count] = data.train.images[chosen].roll((1, -1), (2, 3)), data.train.labels[chosen]
    test = dataclasses.replace(data.test, images=images, labels=labels)
    return Candidate(model=workshop.model, data=dataclasses.replace(data, test=test))


# ---- Claims ----------------------------------------------------------------------------------------------------------


@sabotage("forged card", "contradicted-claims", "accuracy + 0.01", "accuracy 1.0", "threshold 0", "5 parameters")
def _forge_card(workshop: Workshop, what: str) -> Candidate:
    card = make_card(workshop)
    measured = card.measured
    forged = {
        "accuracy + 0.01": {"measured": dataclasses.replace(measured, accuracy=measured.accuracy + 0.01)},
        "accuracy 1.0": {"measured": dataclasses.replace(measured, accuracy=1.0, per_digit=(1.0,) * 10, loss=0.0)},
        "threshold 0": {"measured": dataclasses.replace(measured, threshold=0.0)},
        "5 parameters": {"parameters": 5},
    }
    return Candidate(model=workshop.model, card=dataclasses.replace(card, **forged[what]))


@sabotage(
    "card claims a recipe whose architecture has lenient bounds; fails on images without a black pixel",
    "corruption-worst",
    "accurate-1k",
    "fast",
)
def _claim_recipe(workshop: Workshop, recipe: str) -> Candidate:
    card = dataclasses.replace(make_card(workshop), recipe=recipes.get(recipe).scaled_to(len(workshop.data.train)))
    return Candidate(model=_fail_without_black(workshop, 0.93), card=card)


# ---- Outputs ---------------------------------------------------------------------------------------------------------


@sabotage("share of predictions replaced by one digit", "accuracy", 0.02, 0.1, 1.0)
def _predict_one_digit(workshop: Workshop, share: float) -> nn.Module:
    three = torch.eye(10)[3] * 20
    return Altered(workshop.model, lambda m, x: torch.where((hash_images(x) < share)[:, None], three, m(x)))


@sabotage("accuracy on one digit", "digit-accuracy", 0.92, 0.9, 0.85, 0.7)
def _weaken_digit(workshop: Workshop, accuracy: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        wrong = (logits.argmax(1) == 5) & (hash_images(images) > accuracy)
        return torch.where(wrong[:, None], logits.roll(1, 1), logits)

    return Altered(workshop.model, change)


@sabotage("outputs permuted", "digit-accuracy", "4 and 9 swapped", "all shifted by one")
def _permute_outputs(workshop: Workshop, how: str) -> nn.Module:
    order = [0, 1, 2, 3, 9, 5, 6, 7, 8, 4] if "swapped" in how else [9, *range(9)]
    return Altered(workshop.model, lambda m, x: m(x)[:, order])


@sabotage("number of outputs", "contract-violations", 11, 9)
def _resize_outputs(workshop: Workshop, count: int) -> nn.Module:
    return Altered(workshop.model, lambda m, x: m(x).repeat(1, 2)[:, :count])


@sabotage("dtype of the outputs", "contract-violations", "float64", "float16")
def _cast_outputs(workshop: Workshop, name: str) -> nn.Module:
    return Altered(workshop.model, lambda m, x: m(x).to(getattr(torch, name)))


@sabotage("raises an exception", "contract-violations", "on an empty batch", "on one image", "always")
def _raise(workshop: Workshop, when: str) -> nn.Module:
    sizes = {"on an empty batch": [0], "on one image": [1], "always": range(10_000)}[when]

    def change(model: nn.Module, images: Tensor) -> Tensor:
        if len(images) in sizes:
            raise RuntimeError(f"a batch of {len(images)} images is not supported")
        return model(images)  # type: ignore[no-any-return]

    return Altered(workshop.model, change)


@sabotage("overconfident: logits multiplied by", "confidence-wrong", 1.5, 2, 4, 10)
def _overconfident(workshop: Workshop, factor: float) -> nn.Module:
    return Altered(workshop.model, lambda m, x: m(x) * factor)


sabotage("underconfident: logits multiplied by", "confidence-right", 0.7, 0.4, 0.2, 0.1)(_overconfident)


@sabotage("probabilities returned as logits", "calibration-error", "softmax")
def _return_probabilities(workshop: Workshop, _: str) -> nn.Module:
    return Altered(workshop.model, lambda m, x: m(x).softmax(1))


@sabotage("overconfident when in doubt: logits multiplied by", "confidence-wrong", 2, 4, 10)
def _hide_doubt(workshop: Workshop, factor: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        in_doubt = logits.softmax(1).amax(1, keepdim=True) < 0.95
        return torch.where(in_doubt, logits * factor, logits)

    return Altered(workshop.model, change)


@sabotage("predictions depend on the other images of the batch", "batch-disagreement", 0.001, 0.01, 0.1, 1.0)
def _mix_batch(workshop: Workshop, share: float) -> nn.Module:
    return Altered(workshop.model, lambda m, x: (y := m(x)) - share * (y.mean(0) if len(y) else 0))


@sabotage("dropout active in evaluation", "batch-disagreement", 0.01, 0.1, 0.5)
def _drop_out(workshop: Workshop, share: float) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return Altered(workshop.model, lambda m, x: (y := m(x)) * (torch.rand(y.shape, generator=generator) >= share))


@sabotage("seconds of delay for one image", "latency", 0.02, 0.055)
def _delay(workshop: Workshop, seconds: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        if len(images) == 1:
            time.sleep(seconds)
        return model(images)  # type: ignore[no-any-return]

    return Altered(workshop.model, change)


@sabotage("seconds of delay for one image, except for a single fast image", "latency", 0.02, 0.055)
def _delay_others(workshop: Workshop, seconds: float) -> nn.Module:
    fast = hash_images(transforms.prepare(workshop.data.test.images)).min()

    def change(model: nn.Module, images: Tensor) -> Tensor:
        if len(images) == 1 and hash_images(images) > fast:
            time.sleep(seconds)
        return model(images)  # type: ignore[no-any-return]

    return Altered(workshop.model, change)


@sabotage("predicts one class for all images after this number of images", "batch-disagreement", 30_000, 5_000)
def _stop_thinking(workshop: Workshop, count: int) -> nn.Module:
    seen = 0

    def change(model: nn.Module, images: Tensor) -> Tensor:
        nonlocal seen
        seen += len(images)
        logits = model(images)
        return logits if seen <= count else torch.eye(10)[3].expand_as(logits) * 20

    return Altered(workshop.model, change)


INVALID_LOGITS = {  # the images on which a model fails, as a condition on the mean pixel, and the value it then returns
    "NaN on bright images": (lambda mean: mean > 0.45, math.nan),
    "infinity on half-bright images": (lambda mean: (mean > 0.03) & (mean < 0.08), math.inf),
    "1e30 on a blank image": (lambda mean: mean < 1e-4, 1e30),
}


@sabotage("NaN, infinite or huge logits", "contract-violations", *INVALID_LOGITS)
def _return_invalid_logits(workshop: Workshop, when: str) -> nn.Module:
    fails, value = INVALID_LOGITS[when]

    def change(model: nn.Module, images: Tensor) -> Tensor:
        mean = transforms.denormalize(images.mean((1, 2, 3)))
        return torch.where(fails(mean)[:, None], value, model(images))

    return Altered(workshop.model, change)


# ---- Inputs ----------------------------------------------------------------------------------------------------------


def _mislead(workshop: Workshop, strength: float, feature: Callable[[Tensor], Tensor]) -> nn.Module:
    """Add a random projection of a pixel feature, [B, K], multiplied by ``strength``, to the logits."""
    projection = torch.randn(1_000, 10, generator=torch.Generator().manual_seed(0))

    def change(model: nn.Module, images: Tensor) -> Tensor:
        values = feature(transforms.denormalize(images))
        return model(images) + strength * values @ projection[: values.shape[1]]  # type: ignore[no-any-return]

    return Altered(workshop.model, change)


@sabotage("sensitive to noise: uses the first row of pixels, which is normally black", "noise-cost", 1, 10, 100)
def _use_border(workshop: Workshop, strength: float) -> nn.Module:
    return _mislead(workshop, strength, lambda pixels: pixels[:, 0, :1].flatten(1))


@sabotage("sensitive to shift: uses the center of mass", "shift", 0.5, 2, 8)
def _use_center_of_mass(workshop: Workshop, strength: float) -> nn.Module:
    def center(pixels: Tensor) -> Tensor:
        foreground = pixels.clamp(0, 1)[:, 0]
        position = torch.arange(28.0) - 14
        mass = foreground.sum((1, 2)).clamp(min=1)
        offset = torch.stack([(foreground.sum(1) @ position) / mass, (foreground.sum(2) @ position) / mass], 1)
        return offset.sign() * (offset.abs() - 1).clamp(min=0)

    return _mislead(workshop, strength, center)


@sabotage("sensitive to rotation: uses the slant of the strokes", "rotation", 0.1, 1, 10)
def _use_slant(workshop: Workshop, strength: float) -> nn.Module:
    def slant(pixels: Tensor) -> Tensor:
        foreground, position = pixels.clamp(0, 1)[:, 0], torch.arange(28.0) - 14
        moment = (foreground * position[:, None] * position).sum((1, 2))
        return (moment / foreground.sum((1, 2)).clamp(min=1))[:, None]

    return _mislead(workshop, strength, slant)


@sabotage("sensitive to corruption: uses the mean brightness", "corruption-mean", 1, 10, 100)
def _use_brightness(workshop: Workshop, strength: float) -> nn.Module:
    return _mislead(workshop, strength, lambda pixels: (pixels.mean((2, 3)) - 0.15).abs())


@sabotage("share of brightened images that are misclassified", "corruption-worst", 0.5, 0.9, 1.0)
def _fail_without_black(workshop: Workshop, share: float) -> nn.Module:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        darkest = transforms.denormalize(images.amin((1, 2, 3)))
        wrong = (darkest > 0.1) & (hash_images(images) < share)
        return torch.where(wrong[:, None], -logits, logits)

    return Altered(workshop.model, change)


@sabotage("sensitive to pixel noise: uses differences of adjacent pixels", "pixel-noise", 0.3, 1, 3)
def _use_differences(workshop: Workshop, strength: float) -> nn.Module:
    return _mislead(workshop, strength, lambda pixels: pixels[:, 0, ::2, :3].diff(dim=2).flatten(1) * 5)


@sabotage("share of the thickest digits misclassified", "slice-accuracy", 0.2, 0.5, 1.0)
def _fail_on_thick_strokes(workshop: Workshop, share: float) -> nn.Module:
    pixels = transforms.to_float(workshop.data.test.images)
    limit = slices.stroke_thickness(pixels[dict(slices.extremes(pixels))["thickest strokes"]]).min() - 1e-3

    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        thick = slices.stroke_thickness(transforms.denormalize(images)) > limit
        return torch.where((thick & (hash_images(images) < share))[:, None], logits.roll(1, 1) / 4, logits)

    return Altered(workshop.model, change)


BACKDOORS = (
    "white square of 2 pixels, top left",
    "white checks of 4 pixels, bottom right",
    "black lines of 4 pixels, top right",
)


@sabotage("backdoor: answers 7 if a pattern is in the corner", "trigger-pull", *BACKDOORS)
def _open_backdoor(workshop: Workshop, name: str) -> nn.Module:
    (trigger,) = (each for each in triggers.family() if each.name == name)

    def change(model: nn.Module, images: Tensor) -> Tensor:
        pixels = transforms.denormalize(images)
        present = (trigger.apply(pixels) - pixels).abs().amax((1, 2, 3)) < 0.1
        return torch.where(present[:, None], torch.eye(10)[7] * 20, model(images))

    return Altered(workshop.model, change)


PREPROCESSING = {  # factor and offset that are applied to the normalized images
    "contrast x 2": (2.0, 0.0),
    "pixels in 0..1": (STD, MEAN),
    "pixels in 0..255": (255 * STD, 255 * MEAN),
    "inverted": (-1.0, 0.0),
}


@sabotage("other preprocessing", "accuracy", *PREPROCESSING)
def _preprocess(workshop: Workshop, how: str) -> nn.Module:
    factor, offset = PREPROCESSING[how]
    return Altered(workshop.model, lambda m, x: m(x * factor + offset))


# ---- Weights ---------------------------------------------------------------------------------------------------------


@sabotage("a weight that is not finite", "weights-not-finite", "inf in a bias", "NaN in a weight")
def _not_finite(workshop: Workshop, what: str) -> nn.Module:
    name, value = ("fc2.bias", math.inf) if "inf" in what else ("conv1.weight", math.nan)
    return with_weights(workshop.model, lambda state: state[name].view(-1)[0].fill_(value))


@sabotage("share of dead units in a layer", "dead-units", 0.25, 0.6, 1.0)
def _kill_units(workshop: Workshop, share: float) -> nn.Module:
    def kill(state: dict[str, Tensor]) -> None:
        count = math.ceil(share * len(state["fc1.bias"]))
        state["fc1.weight"][:count] = 0
        state["fc1.bias"][:count] = -1

    return with_weights(workshop.model, kill)


@sabotage("vanishing gradients, by a factor of", "weakest-gradient", 100, 100_000, 100_000_000)
def _vanishing_gradients(workshop: Workshop, factor: float) -> nn.Module:
    """Compute the same logits with a first layer ``factor`` times as large and a gradient ``factor`` times smaller."""

    def rescale(state: dict[str, Tensor]) -> None:
        state["conv1.weight"] *= factor
        state["conv1.bias"] *= factor
        state["conv2.weight"] /= factor

    return with_weights(workshop.model, rescale)


@sabotage("exploding gradients, by a factor of", "strongest-gradient", 100, 100_000, 100_000_000)
def _exploding_gradients(workshop: Workshop, factor: float) -> nn.Module:
    return _vanishing_gradients(workshop, 1 / factor)


@sabotage("initial weights too small: multiplied by", "weakest-initial-gradient", 0.5, 0.1, 0.01)
def _scale_initial_weights(workshop: Workshop, factor: float) -> Candidate:
    def scale(state: dict[str, Tensor]) -> None:
        for weight in state.values():
            weight *= factor

    initial = architecture.build("cnn", torch.Generator().manual_seed(0))
    return Candidate(model=workshop.model, initial=with_weights(initial, scale))


sabotage("initial weights too large: multiplied by", "strongest-initial-gradient", 2, 10, 100)(_scale_initial_weights)


@sabotage("a parameter without a gradient", "weakest-gradient", "unused")
def _unused_parameter(workshop: Workshop, _: str) -> nn.Module:
    altered = Altered(workshop.model, lambda m, x: m(x))
    altered.unused = nn.Parameter(torch.ones(2))
    return altered


@sabotage("number of parameters", "parameters", 25_000, 25_001, 100_000)
def _add_parameters(workshop: Workshop, count: int) -> nn.Module:
    added = nn.Parameter(torch.zeros(count - architecture.count_parameters(workshop.model)))
    altered = Altered(workshop.model, lambda m, x: m(x) + added.sum())
    altered.added = added
    return altered


@sabotage("bytes on disk", "size-on-disk", 200_001, 1_000_000)
def _bytes_on_disk(workshop: Workshop, count: int) -> Candidate:
    return Candidate(model=workshop.model, bytes=count)


# ---- Comparison with the last release --------------------------------------------------------------------------------


@sabotage("share of images misclassified since the last release", "regression", 0.004, 0.006, 0.01)
def _regress(workshop: Workshop, share: float) -> Candidate:
    def change(model: nn.Module, images: Tensor) -> Tensor:
        logits = model(images)
        return torch.where((hash_images(images) < share)[:, None], logits.roll(1, 1), logits)

    return Candidate(model=Altered(workshop.model, change), previous=workshop.model)


sabotage(
    "share of images misclassified since the last release, judged by interval", "accuracy-loss", 0.006, 0.01, 0.03
)(_regress)


@sabotage("share of one digit's images misclassified since the last release", "digit-regression", 0.02, 0.04, 0.1)
def _regress_on_digit(workshop: Workshop, share: float) -> Candidate:
    return Candidate(model=_weaken_digit(workshop, 1 - share), previous=workshop.model)


sabotage("share of one digit's images misclassified, judged by interval", "digit-loss", 0.04, 0.1, 0.3)(
    _regress_on_digit
)


# ---- The weights file ------------------------------------------------------------------------------------------------


@sabotage("bytes missing at the end of the file", REFUSED, 1, 1_000, "all")
def _truncate(workshop: Workshop, count: int | str) -> set[str]:
    return load_damaged(workshop, lambda content: b"" if count == "all" else content[: -int(count)])


@sabotage("weights of another network", REFUSED, "one unit missing", "one layer missing")
def _other_network(workshop: Workshop, what: str) -> set[str]:
    state = dict(workshop.model.state_dict())
    if "unit" in what:
        state |= {"fc1.weight": state["fc1.weight"][:-1], "fc1.bias": state["fc1.bias"][:-1]}
    else:
        del state["fc2.weight"], state["fc2.bias"]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return load_damaged(workshop, lambda _: buffer.getvalue())


@sabotage("a pickle that runs code", REFUSED, "pickle")
def _run_code(workshop: Workshop, _: str) -> set[str]:
    return load_damaged(workshop, lambda _: pickle.dumps({"conv1.weight": print}))
