"""A page to draw digits on: one HTML file that holds a model and runs it, without a server or a connection."""

import base64
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mnist import templates, transforms
from mnist.architecture import count_parameters
from mnist.errors import MnistError
from mnist.preparation import BOX, CENTRE, SIDE
from mnist.storage.artifacts import Artifact
from mnist.storage.card import ModelCard

_templates = templates.environment()


MARK = '<meta name="generator" content="mnist demo">'  # by which a page of this program's is known
LARGEST = 10_000_000  # bytes of any page that is looked at for it


class PageError(MnistError):
    """A network that the page could not run as PyTorch does."""


def render(artifact: Artifact) -> str:
    """The page, HTML that needs nothing else: in a browser it prepares a drawing and runs the network as Python does.

    Under the model's threshold it says that it is not sure. Of a model without a card it says that it has none.

    Raises:
        PageError: the network has a layer that the page cannot run, or a weight that is no finite number.
    """
    described = [_describe(layer) for layer in _flatten(artifact.model.layers())]
    model = {
        "layers": [{**layer, "sizes": [weights.numel() for weights in parameters]} for layer, parameters in described],
        "weights": _encode([weights for _, parameters in described for weights in parameters]),
        "shifts": artifact.model.shifts,
        "mean": transforms.MEAN,
        "std": transforms.STD,
        "side": SIDE,
        "box": BOX,
        "centre": CENTRE,
        "classes": artifact.classes,
        "threshold": artifact.threshold,
    }
    return _templates.get_template("demo.html.jinja").render(
        mark=MARK, model=model, facts=_facts(artifact), claim=_claim(artifact), carded=artifact.card is not None
    )


def _facts(artifact: Artifact) -> dict[str, str]:
    """What the page tells of the model, as far as it is known: the card may lack any of it."""
    facts: dict[str, Any] = {
        "file": artifact.path.name,
        "architecture": artifact.architecture,
        "parameters": f"{count_parameters(artifact.model):,}",
    }
    if card := artifact.card:
        facts["accuracy"] = _accuracy(card)
        facts["recipe"] = card.recipe.name
        facts["trained on"] = card.dataset.train
        facts["created"] = card.created.replace("T", " ").replace("+00:00", " UTC")
    facts["SHA-256"] = artifact.sha256
    return {name: str(fact) for name, fact in facts.items() if fact is not None}


def _claim(artifact: Artifact) -> str:
    """What is said of the model first: how small it is, and how good."""
    accuracy = _accuracy(artifact.card) if artifact.card else None
    right = f", right on {accuracy}" if accuracy else ""
    return f"A network of {count_parameters(artifact.model):,} parameters{right}."


def _accuracy(card: ModelCard) -> str | None:
    """Say how accurate the model is and on which images; None if the accuracy could not be measured."""
    measured = card.measured
    if math.isnan(measured.accuracy):
        return None
    counted = f"{measured.images:,} images"
    which = measured.measured_on.removesuffix(f", {counted}")
    return f"{100 * measured.accuracy:.2f}\N{NO-BREAK SPACE}% of {counted} ({which})"


# ---- The network -----------------------------------------------------------------------------------------------------


def _encode(parameters: Sequence[Tensor]) -> str:
    """All of them, one after the other, as base64 of little-endian float32."""
    weights = torch.cat([weights.detach().cpu().float().reshape(-1) for weights in parameters])
    if not weights.isfinite().all():
        raise PageError("a weight is NaN or infinite: no page can be made of that network (train it again)")
    return base64.b64encode(weights.numpy().astype("<f4").tobytes()).decode()


def _flatten(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers that do something. The page keeps an image's numbers in PyTorch's order: flattening does nothing."""
    for layer in layers:
        match layer:
            case nn.Sequential():
                yield from _flatten(layer)
            case nn.Identity() | nn.Flatten(start_dim=1, end_dim=-1):
                pass
            case _:
                yield layer


def _describe(layer: nn.Module) -> tuple[dict[str, Any], list[Tensor]]:
    """A layer as the page's JavaScript knows it, and its weights in the order in which that reads them."""
    match layer:
        case nn.Conv2d(padding_mode="zeros", dilation=(1, 1), padding=(int(), int())):
            outputs, inputs, *kernel = layer.weight.shape  # inputs: of one group
            sizes = {"outputs": outputs, "inputs": inputs, "groups": layer.groups, "kernel": kernel}
            placing = {"stride": layer.stride, "padding": layer.padding}
            return {"kind": "convolve", **sizes, **placing}, [layer.weight, _bias(layer)]
        case nn.MaxPool2d(padding=0, dilation=1, ceil_mode=False):
            return {"kind": "poolByMaximum", **_pooling(layer)}, []
        case nn.AvgPool2d(padding=0, divisor_override=None, ceil_mode=False):
            return {"kind": "poolByMean", **_pooling(layer)}, []
        case nn.BatchNorm2d(running_mean=Tensor() as mean, running_var=Tensor() as variance):
            scale = (variance.double() + layer.eps).rsqrt() * (layer.weight if layer.affine else 1)
            return {"kind": "scaleAndShift"}, [scale, (layer.bias if layer.affine else 0) - mean * scale]
        case nn.ReLU():
            return {"kind": "rectify"}, []
        case nn.Linear():
            return {"kind": "combine", "outputs": layer.out_features}, [layer.weight, _bias(layer)]
    raise PageError(f"the page cannot run the layer {' '.join(str(layer).split())}")


def _bias(layer: nn.Conv2d | nn.Linear) -> Tensor:
    return layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias


def _pooling(layer: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, tuple[int, ...]]:
    sizes = {"kernel": layer.kernel_size, "stride": layer.stride}
    return {name: (size, size) if isinstance(size, int) else size for name, size in sizes.items()}
