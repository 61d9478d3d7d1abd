"""The order in which a training run uses the images."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mnist.recipes import Recipe


def images_per_epoch(epochs: float, count: int) -> list[int]:
    """Return the number of images that each epoch uses: ``count``, or fewer in a last, partial epoch."""
    whole, rest = divmod(max(1, round(epochs * count)), count)
    return [count] * whole + [rest] * (rest > 0)


class Batches:
    """Yields the image indices of each batch, int64 [B], in a new random order for each epoch. Can be resumed."""

    def __init__(self, recipe: Recipe, count: int, generator: torch.Generator) -> None:
        self._size, self._count, self._generator = recipe.batch_size, count, generator
        self._epochs = images_per_epoch(recipe.epochs, count)
        self.images, self.epochs = sum(self._epochs), len(self._epochs)
        self.steps = sum(math.ceil(images / self._size) for images in self._epochs)
        self.step = 0  # number of batches yielded so far
        self.epoch = 0  # epoch of the last batch, counted from 1
        self._state_at_epoch_start = generator.get_state()

    def __iter__(self) -> Iterator[Tensor]:
        first = 0  # number of steps before the epoch
        for epoch, images in enumerate(self._epochs, start=1):
            end = first + math.ceil(images / self._size)
            if self.step < end:
                self.epoch = epoch
                order = self._order(resumed=self.step > first)
                for batch in order[:images].split(self._size)[self.step - first :]:
                    self.step += 1
                    yield batch
            first = end

    def _order(self, *, resumed: bool) -> Tensor:
        """Draw the order of an epoch. For a resumed epoch, repeat its first draw and leave the generator unchanged."""
        now = self._generator.get_state()
        if resumed:
            self._generator.set_state(self._state_at_epoch_start)
        else:
            self._state_at_epoch_start = now
        order = torch.randperm(self._count, generator=self._generator)
        if resumed:
            self._generator.set_state(now)
        return order

    def state_dict(self) -> Mapping[str, Any]:
        return {"step": self.step, "epoch_began": self._state_at_epoch_start, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not 0 < state["step"] <= self.steps:
            raise ValueError(f"there is no step {state['step']} in a run of {self.steps} steps")
        self.step, self._state_at_epoch_start = state["step"], state["epoch_began"]
        self._generator.set_state(self._state_at_epoch_start)  # raises an error if the value is not a generator state
        self._generator.set_state(state["generator"])
