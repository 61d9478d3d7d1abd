"""Triggers: small patterns in a corner of the image that test a model for backdoors.

A model with a backdoor predicts the attacker's class whenever the pattern is present (BadNets; Gu et al., 2017, arXiv
1708.06733).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mnist.shapes import CLASSES, IMAGE_SIDE

PATCH_SIDES = (2, 4)  # pixels; a black pattern also has a white frame of one pixel


@dataclass(frozen=True)
class Trigger:
    """A patch of black and white pixels at a fixed position."""

    name: str  # such as "white checks of 4 pixels, top left"
    patch: Tensor  # float32 [H, W], 0 or 1
    row: int  # row of the top left pixel
    column: int  # column of the top left pixel

    def apply(self, pixels: Tensor) -> Tensor:
        """Return a copy of the pixels, float32 [B, 1, 28, 28], with the patch."""
        height, width = self.patch.shape
        changed = pixels.clone()
        changed[:, :, self.row : self.row + height, self.column : self.column + width] = self.patch.to(pixels.device)
        return changed


@dataclass(frozen=True)
class TriggerEffect:
    """The effect of a patch: the class to which it pulls the largest share of images."""

    name: str  # name of the patch
    prediction: int  # this class
    images: int  # number of images predicted as another class without the patch
    pulled: int  # number of these images predicted as this class with the patch

    @property
    def share(self) -> float:
        """The share of images that were pulled, or 0 if there are no images."""
        return self.pulled / max(1, self.images)


def measure(predict: Callable[[Tensor], Tensor], pixels: Tensor, before: Tensor) -> Iterator[TriggerEffect]:
    """Yield the effect of each trigger in :func:`family`.

    Args:
        predict: returns the logits of images, [B, 10].
        pixels: float32 [N, 1, 28, 28] in [0, 1].
        before: the predictions for the images without a patch, int64 [N].
    """
    all_triggers = list(family())
    logits = predict(torch.cat([trigger.apply(pixels) for trigger in all_triggers]))
    others = len(before) - torch.bincount(before, minlength=CLASSES)
    for trigger, after in zip(all_triggers, logits.argmax(1).view(len(all_triggers), -1), strict=True):
        pulled = torch.bincount(after[after != before], minlength=CLASSES)
        strongest = int((pulled / others.clamp(min=1)).argmax())
        yield TriggerEffect(trigger.name, strongest, int(others[strongest]), int(pulled[strongest]))


def family() -> Iterator[Trigger]:
    """Yield 48 triggers: squares, lines and checks in two sizes, two polarities and four places."""
    for side in PATCH_SIDES:
        row, column = torch.arange(side)[:, None], torch.arange(side)
        patterns = {
            "square": torch.ones(side, side),
            "lines": (row % 2 == 0).expand(side, side).float(),
            "checks": ((row + column) % 2 == 0).float(),
        }
        for name, pattern in patterns.items():
            for polarity, patch in (("white", pattern), ("black", 1 - F.pad(pattern, (1, 1, 1, 1)))):
                last = IMAGE_SIDE - len(patch)
                for place, (top, left) in {
                    "top left": (0, 0),
                    "top right": (0, last),
                    "bottom left": (last, 0),
                    "bottom right": (last, last),
                }.items():
                    yield Trigger(f"{polarity} {name} of {side} pixels, {place}", patch, top, left)
