"""Labels, formatted values and units of the model card in report.html."""

from collections.abc import Callable, Mapping
from typing import Any

SECTIONS = ("recipe", "dataset", "training", "environment")  # card sections, shown after the fields of the model itself
MODEL_FIELDS = (
    *("weights", "sha256", "bytes", "created", "architecture", "parameters", "multiply_accumulates"),
    "card_sha256",
)

_LABELS = {
    "sha256": "SHA-256",
    "card_sha256": "SHA-256 of the card",
    "bytes": "size",
    "beta1": "beta 1",
    "beta2": "beta 2",
    "cpu_use": "CPU use",
    "peak_memory_bytes": "peak memory",
    "images_per_second": "speed",
    "seconds": "time",
    "startup_seconds": "time until the first step",
    "images": "images seen",
    "resumed": "interruptions",
    "init": "started from",
    "train": "training split",
    "test": "test split",
    "validation": "validation images",
    "mnist": "mnist version",
    "clean": "unchanged since the commit",
}
_FORMS: dict[str, Callable[[Any], str]] = {
    "bytes": lambda value: f"{value / 1000:,.1f} kB",
    "created": lambda value: value.replace("T", " ").replace("+00:00", " UTC"),
    "translation": "±{:.3g} of the side".format,
    "scaling": lambda value: f"±{100 * value:.3g} %",
    "batch_size": "{:,} images".format,
    "seed": str,
    "images_per_second": "{:,.0f} images/s".format,
    "peak_memory_bytes": lambda value: f"{value / 2**20:,.0f} MiB",
    "cpu_use": "{:.2f} cores".format,
    "init": lambda value: f"{value['weights']}, trained on {', '.join(value['trained_on'])}",
    **dict.fromkeys(("rotation", "shear"), "±{:g}°".format),
    **dict.fromkeys(("seconds", "startup_seconds"), "{:,.1f} s".format),
    "label_smoothing": lambda value: f"{100 * value:.3g} %",
    "warmup": lambda value: f"{100 * value:.3g} % of the steps",
    "randomization": lambda value: f"{100 * value:.3g} % of the images",
    "negatives": lambda value: value["description"],
}


def describe(card: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the sections of a card, each with its labels and formatted values. Values that are None are omitted.

    Args:
        card: the model card, as in report.json.
    """
    sections = {"model": {name: card[name] for name in MODEL_FIELDS}}
    sections |= {name: card[name] for name in SECTIONS}
    return {
        title: {label(name): show(name, value) for name, value in section.items() if value is not None}
        for title, section in sections.items()
    }


def label(name: str) -> str:
    """Return the label of a field, such as "size" for ``bytes``."""
    return _LABELS.get(name, name.replace("_", " "))


def show(name: str, value: Any) -> str:
    """Return the value of a field as text, with its unit."""
    if name in _FORMS:
        return _FORMS[name](value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return str(value)
