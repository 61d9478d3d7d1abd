"""Probes: changes to the test images after which a good model still recognizes the digits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mnist import transforms
from mnist.gate.corruptions import CORRUPTIONS
from mnist.shapes import STD
from mnist.transforms import Affine

NOISE_SIGMA = 0.1  # standard deviation, in units of the normalized images
PIXEL_NOISE_SIGMAS = (0.05, 0.1, 0.15, 0.2, 0.3)  # standard deviations, in units of pixels in [0, 1]
SHIFT_PIXELS = 2
ROTATION_DEGREES = 10
SAMPLES_PER_PROBE = 4  # number of changed images kept for the report

Change = Callable[[Tensor, torch.Generator], Tensor]  # takes pixels in [0, 1], float32 [B, 1, 28, 28]


@dataclass(frozen=True)
class ProbeKind:
    """One kind of change to the images."""

    kind: str  # noise, pixel noise, shift, rotation or corruption
    name: str  # such as "10° right" or "fog"
    strength: float  # in the unit of the kind, such as pixels or degrees
    change: Change


@dataclass(frozen=True)
class Probe:
    """The result of a probe: the number of changed images that a model recognizes."""

    kind: str
    name: str
    strength: float
    images: int
    right: int  # number of images recognized after the change
    lost: int  # number of images recognized only before the change
    gained: int  # number of images recognized only after the change
    sample: Tensor = field(compare=False, repr=False)  # some changed images, uint8 [up to 4, 28, 28]
    chosen: Tensor = field(compare=False, repr=False)  # indices of the images in an order common to all probes, int64
    recognized: Tensor = field(compare=False, repr=False)  # whether each image was recognized after the change, bool


def kinds() -> Iterator[ProbeKind]:
    """Yield all ways to change images."""
    yield ProbeKind("noise", f"noise, sigma {NOISE_SIGMA:g}", NOISE_SIGMA, _noise(NOISE_SIGMA * STD))
    for sigma in PIXEL_NOISE_SIGMAS:
        yield ProbeKind("pixel noise", f"pixel noise, sigma {sigma:g}", sigma, _clamped(_noise(sigma)))
    for direction, right, down in (("right", 1, 0), ("left", -1, 0), ("down", 0, 1), ("up", 0, -1)):
        change = _moved(0, SHIFT_PIXELS * right, SHIFT_PIXELS * down)
        yield ProbeKind("shift", f"{SHIFT_PIXELS} pixels {direction}", SHIFT_PIXELS, change)
    for direction, sign in (("right", 1), ("left", -1)):
        name = f"{ROTATION_DEGREES}° {direction}"
        yield ProbeKind("rotation", name, ROTATION_DEGREES, _moved(sign * ROTATION_DEGREES, 0, 0))
    for name, corruption in CORRUPTIONS.items():
        yield ProbeKind("corruption", name, 1, corruption)


def describe(kind: ProbeKind, chosen: Tensor, changed: Tensor, before: Tensor, after: Tensor) -> Probe:
    """Return the result of a probe.

    Args:
        chosen: indices of the images, int64 [B].
        changed: the images after the change, float32 [B, 1, 28, 28].
        before: whether each image was recognized before the change, bool [B].
        after: whether each image was recognized after the change, bool [B].
    """
    sample = changed[:: max(1, len(chosen) // SAMPLES_PER_PROBE), 0][:SAMPLES_PER_PROBE].cpu()
    return Probe(
        kind.kind,
        kind.name,
        kind.strength,
        images=len(chosen),
        right=int(after.sum()),
        lost=int((before & ~after).sum()),
        gained=int((~before & after).sum()),
        sample=(sample.clamp(0, 1) * 255).round().to(torch.uint8),
        chosen=chosen,
        recognized=after,
    )


def _noise(sigma: float) -> Change:
    return lambda pixels, generator: transforms.add_gaussian_noise(pixels, sigma, generator)


def _clamped(change: Change) -> Change:
    return lambda pixels, generator: change(pixels, generator).clamp(0, 1)


def _moved(angle: float, right: float, down: float) -> Change:
    def move(pixels: Tensor, _: torch.Generator) -> Tensor:
        ones = torch.ones(len(pixels))
        shift = torch.tensor([right, down], dtype=torch.float32).expand(len(pixels), 2)
        return transforms.affine(pixels, Affine(ones * angle, shift, ones))

    return move
