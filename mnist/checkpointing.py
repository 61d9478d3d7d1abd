"""Save the state of a training run at regular intervals, and restore a saved state."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from mnist.distributed import Group
from mnist.errors import MnistError
from mnist.progress import Position

State = Mapping[str, Any]  # the state_dict of each part of a run, keyed by the part's name


class StateError(MnistError):
    """A saved state that belongs to another run."""


class Interrupted(Exception):  # noqa: N818
    """A run that was stopped on request, after ``step`` of its ``steps`` steps."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"interrupted after {step:,} of {steps:,} steps")
        self.step, self.steps = step, steps


@dataclass(frozen=True)
class Checkpointing:
    """When and how to save the state of a run. The state is also saved at the end of training."""

    save: Callable[[int, State], None]  # called with the number of steps so far and the state after them
    stop: Callable[[], bool] = lambda: False  # called after every step; on True, save and raise Interrupted
    steps: float = math.inf  # save at every multiple of this number of steps
    seconds: float = math.inf  # save when this time has passed since the last checkpoint


class Saver:
    """Saves the state of a run at regular intervals, at the end of the run, and when the run is asked to stop."""

    def __init__(
        self, checkpointing: Checkpointing | None, parts: Mapping[str, Any], position: Position, group: Group
    ) -> None:
        self._checkpointing, self._parts, self._position, self._group = checkpointing, parts, position, group
        self._last_saved = time.monotonic()

    def after_step(self) -> None:
        """Save the state if a checkpoint is due, or if any process was asked to stop.

        Raises:
            Interrupted: if any process was asked to stop.
        """
        stop = self._group.any(self._checkpointing is not None and self._checkpointing.stop())
        if self._checkpointing and (stop or self._is_due(self._checkpointing)):
            state = {name: part.state_dict() for name, part in self._parts.items()}
            self._checkpointing.save(self._position.step, state)
            self._last_saved = time.monotonic()
        if stop:
            raise Interrupted(self._position.step, self._position.steps)

    def _is_due(self, checkpointing: Checkpointing) -> bool:
        step = self._position.step
        return (
            step == self._position.steps
            or step % checkpointing.steps == 0
            or time.monotonic() - self._last_saved >= checkpointing.seconds
        )


def restore(parts: Mapping[str, Any], state: State) -> None:
    """Load the saved state into the parts of a run.

    Raises:
        StateError: if the state belongs to another run, or was not written by this program.
    """
    try:
        for name, part in parts.items():
            fresh = copy.deepcopy(part.state_dict())
            part.load_state_dict(state[name])
            if not _has_structure(part.state_dict(), fresh):
                raise TypeError(name)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        raise StateError("the saved state belongs to another run (start a new run, without --resume)") from error


def check_restored(optimizer: torch.optim.Optimizer, schedule: LRScheduler, position: Position) -> None:
    """Check that the restored schedule and the run are at the same step, and that the moments of AdamW are complete.

    Raises:
        StateError: if one of these checks fails.
    """
    total_steps = schedule.total_steps if isinstance(schedule, OneCycleLR) else position.steps
    if (schedule.last_epoch, total_steps) != (position.step, position.steps):
        raise StateError("the saved learning-rate schedule belongs to another run (start a new run, without --resume)")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if state == {}:  # the parameter is frozen, or the loss does not depend on it
                continue
            kinds = {"step": (torch.float32, torch.Size())}
            kinds |= dict.fromkeys(("exp_avg", "exp_avg_sq"), (parameter.dtype, parameter.shape))
            if not isinstance(state, dict) or kinds != {
                name: (value.dtype, value.shape) for name, value in state.items() if isinstance(value, Tensor)
            }:
                raise StateError("the saved state of the optimizer is incomplete (start a new run, without --resume)")


def _has_structure(value: Any, fresh: Any) -> bool:
    """Return True if ``value`` has all keys of ``fresh``, and the same types, shapes, flags and strings."""
    if isinstance(fresh, Tensor):
        return isinstance(value, Tensor) and (value.dtype, value.shape) == (fresh.dtype, fresh.shape)
    if isinstance(fresh, Mapping):
        return isinstance(value, Mapping) and all(
            key in value and _has_structure(value[key], item) for key, item in fresh.items()
        )
    if isinstance(fresh, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(fresh)
            and all(_has_structure(*pair) for pair in zip(value, fresh, strict=True))
        )
    if isinstance(fresh, bool | str | None):
        return type(value) is type(fresh) and value == fresh
    return isinstance(value, int if isinstance(fresh, int) else int | float) and not isinstance(value, bool)
