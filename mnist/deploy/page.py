"""A page to draw digits on: one HTML file that holds a model and runs it, without a server or a connection."""

import base64
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mnist import templates, transforms
from mnist.architecture import count_parameters
from mnist.deploy import layers
from mnist.deploy.layers import Convolution, Layer, Linear
from mnist.errors import MnistError
from mnist.preparation import BOX, CENTRE, SIDE
from mnist.storage.artifacts import Artifact, ModelCard

_templates = templates.environment()


MARK = '<meta name="generator" content="mnist demo">'  # by which a page of this program's is known
LARGEST = 10_000_000  # bytes of any page that is looked at for it


class PageError(MnistError):
    """A network that the page could not run as PyTorch does."""


def render(artifact: Artifact) -> str:
    """The page, HTML that needs nothing else: in a browser it prepares a drawing and runs the network as Python does.

    Under the model's threshold it says that it is not sure. Of a model without a card it says that it has none.

    Raises:
        LayerError: the network has a layer that is not supported.
        PageError: a convolution is dilated, or a weight is no finite number.
    """
    described = [_describe(layer) for layer in layers.describe(artifact.model)]
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
        facts["recipe"] = card.recipe.get("name")
        facts["trained on"] = card.dataset.get("train", card.dataset["name"])
        facts["created"] = card.created.replace("T", " ").replace("+00:00", " UTC")
    facts["SHA-256"] = artifact.sha256
    return {name: str(fact) for name, fact in facts.items() if fact is not None}


def _claim(artifact: Artifact) -> str:
    """What is said of the model first: how small it is, and how good."""
    accuracy = _accuracy(artifact.card) if artifact.card else None
    right = f", right on {accuracy}" if accuracy else ""
    return f"A network of {count_parameters(artifact.model):,} parameters{right}."


def _accuracy(card: ModelCard) -> str | None:
    """On how many of which images the model was right; None where the card does not say so."""
    accuracy, images, what = (card.measured.get(name) for name in ("accuracy", "images", "measured_on"))
    if not isinstance(accuracy, float) or not isinstance(images, int):
        return None
    counted = f"{images:,} images"
    which = f" ({what.removesuffix(f', {counted}')})" if isinstance(what, str) else ""
    return f"{100 * accuracy:.2f}\N{NO-BREAK SPACE}% of {counted}{which}"


# ---- The network -----------------------------------------------------------------------------------------------------


def _encode(parameters: Sequence[Tensor]) -> str:
    """All of them, one after the other, as base64 of little-endian float32."""
    weights = torch.cat([weights.float().reshape(-1) for weights in parameters])
    if not weights.isfinite().all():
        raise PageError("a weight is NaN or infinite: no page can be made of that network (train it again)")
    return base64.b64encode(weights.numpy().astype("<f4").tobytes()).decode()


def _describe(layer: Layer) -> tuple[dict[str, Any], list[Tensor]]:
    """A layer as the page's JavaScript knows it, and its weights in the order in which that reads them."""
    match layer:
        case layers.Convolution():
            if layer.dilation != (1, 1):
                raise PageError(f"the page cannot run a convolution with dilation {layer.dilation}")
            outputs, inputs, *kernel = layer.weight.value.shape  # inputs: of one group
            sizes = {"outputs": outputs, "inputs": inputs, "groups": layer.groups, "kernel": kernel}
            placing = {"stride": layer.stride, "padding": layer.padding}
            return {"kind": "convolve", **sizes, **placing}, [layer.weight.value, _bias(layer)]
        case layers.MaxPooling():
            return {"kind": "poolByMaximum", "kernel": layer.kernel, "stride": layer.stride}, []
        case layers.AveragePooling():
            return {"kind": "poolByMean", "kernel": layer.kernel, "stride": layer.stride}, []
        case layers.Normalization():
            scale = (layer.variance.value.double() + layer.epsilon).rsqrt() * layer.scale.value
            return {"kind": "scaleAndShift"}, [scale, layer.shift.value - layer.mean.value * scale]
        case layers.ReLU():
            return {"kind": "rectify"}, []
        case layers.Flatten():  # the page keeps an image's numbers in this order throughout
            return {"kind": "flatten"}, []
        case layers.Linear():
            return {"kind": "combine", "outputs": len(layer.weight.value)}, [layer.weight.value, _bias(layer)]


def _bias(layer: Convolution | Linear) -> Tensor:
    return torch.zeros(len(layer.weight.value)) if layer.bias is None else layer.bias.value
