"""Coordinates of the charts in report.html, as fractions of the width and height from the lower left corner."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mnist.progress import LogEntry

MAX_TICKS = 5  # maximum number of ticks on the image axis, in addition to the tick at 0
SMALLEST_LOSS = 1e-4  # smaller losses are drawn at this value
AXIS_STARTS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)  # possible start values of the axis in a bar chart of accuracies
ACCURACY_TICKS = (0.0, 0.9, 0.99, 0.999, 0.9999)


@dataclass(frozen=True)
class Tick:
    """A labelled tick mark on an axis."""

    label: str
    place: float  # fraction of the axis's length


@dataclass(frozen=True)
class Chart:
    """A line chart of loss or accuracy against the number of images seen, with a line for each model."""

    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: Mapping[str, tuple[tuple[float, float], ...]]  # points (x, y) in [0, 1], keyed by the model's name


def learning_curves(logs: Mapping[str, Sequence[LogEntry]]) -> list[Chart]:
    """Return the charts of loss and accuracy, or an empty list if no model has a log.

    The loss axis is logarithmic. The accuracy axis is logarithmic in the error rate (see :func:`stretched`).
    """
    logs = {name: log for name, log in logs.items() if log}
    if not logs:
        return []
    most = max(entry.images for log in logs.values() for entry in log)
    losses = [max(entry.loss, SMALLEST_LOSS) for log in logs.values() for entry in log]
    loss_ticks = _loss_ticks(min(losses), max(losses))
    lowest, highest = math.log(loss_ticks[0]), math.log(loss_ticks[-1])

    def place_loss(loss: float) -> float:
        return (math.log(max(loss, SMALLEST_LOSS)) - lowest) / (highest - lowest)

    def chart(title: str, ticks: Sequence[tuple[str, float]], place: Callable[[LogEntry], float]) -> Chart:
        lines = {name: tuple((entry.images / most, place(entry)) for entry in log) for name, log in logs.items()}
        images = tuple(Tick(f"{number:,}", number / most) for number in _round_numbers(most))
        return Chart(title, images, tuple(Tick(*tick) for tick in ticks), lines)

    return [
        chart("loss", [(f"{loss:g}", place_loss(loss)) for loss in loss_ticks], lambda entry: place_loss(entry.loss)),
        chart(
            "accuracy",
            [(f"{100 * share:g} %", stretched(share)) for share in ACCURACY_TICKS],
            lambda entry: stretched(entry.accuracy),
        ),
    ]


def stretched(share: float) -> float:
    """Return the position of a share on an axis that is logarithmic in 1 - share: 0 for 0 %, 1 from 99.99 % upwards."""
    return max(0.0, math.log10(1 / max(1 - share, 0.0001)) / 4)


def _round_numbers(most: int) -> list[int]:
    """Return up to ``MAX_TICKS`` + 1 ticks from 0 to at most ``most``, in steps of 1, 2 or 5 times a power of 10."""
    step = next(size for size in _one_two_five(1) if most / size <= MAX_TICKS)
    return list(range(0, most + 1, int(step)))


def _loss_ticks(lowest: float, highest: float) -> list[float]:
    """Return tick values of 1, 2 or 5 times a power of 10 that enclose the range from ``lowest`` to ``highest``."""
    steps = _one_two_five(10.0 ** (math.floor(math.log10(lowest)) - 1))  # log10 may be rounded up
    first = max(index for index, step in enumerate(steps) if step <= lowest)
    last = min(index for index, step in enumerate(steps) if step >= highest and index > first)
    return steps[first : last + 1]


def _one_two_five(smallest: float) -> list[float]:
    return [smallest * 10**power * digit for power in range(50) for digit in (1, 2, 5)]


def axis_start(*shares: float | None) -> float:
    """Return the start value of an axis that ends at 100 % and shows all of these shares; None values are ignored."""
    lowest = min((share for share in shares if share is not None), default=1.0)
    return max(start for start in AXIS_STARTS if start < max(lowest, 1e-9))
