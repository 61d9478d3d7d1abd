"""Write the drawing page: one HTML file that contains a model and runs it in the browser, offline, without a server."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mnist import templates
from mnist.architecture import count_parameters
from mnist.deploy import layers
from mnist.deploy.layers import Convolution, Layer, Linear
from mnist.errors import MnistError
from mnist.preparation import (
    BOX_SIDE,
    CENTRE,
    clutter,
    components,
    copies,
    lines,
    picture,
    placement,
    search,
    shape,
)
from mnist.shapes import IMAGE_SIDE, MEAN, STD
from mnist.storage.artifacts import Artifact
from mnist.storage.card import ModelCard

MARK = '<meta name="generator" content="mnist demo">'  # identifies a page that this module wrote
MAX_PAGE_BYTES = 10_000_000  # a larger existing file is not overwritten

_templates = templates.environment()


class PageError(MnistError):
    """The page cannot run the network."""


def render(artifact: Artifact) -> str:
    """Return the drawing page as HTML. In the browser, it prepares drawings and runs the network as this package does.

    If the confidence is below the model's threshold, the prediction is "not sure". If there is no model card, the page
    shows a note.

    Raises:
        LayerError: if a layer of the network is not supported.
        PageError: if a convolution is dilated, or a weight is not finite.
    """
    return _templates.get_template("demo.html.jinja").render(
        mark=MARK, model=_model(artifact), facts=_facts(artifact), claim=_claim(artifact), carded=bool(artifact.card)
    )


# ---- Text ------------------------------------------------------------------------------------------------------------


def _facts(artifact: Artifact) -> dict[str, str]:
    """Return the known facts about the model, keyed by their labels on the page."""
    facts: dict[str, Any] = {
        "file": artifact.path.name,
        "architecture": artifact.architecture,
        "parameters": f"{count_parameters(artifact.model):,}",
    }
    if card := artifact.card:
        facts["accuracy"] = _accuracy(card)
        facts["recipe"] = card.describe_recipe()
        facts["trained on"] = card.dataset.train
        facts["created"] = card.created.replace("T", " ").replace("+00:00", " UTC")
    facts["SHA-256"] = artifact.sha256
    return {name: str(fact) for name, fact in facts.items() if fact is not None}


def _claim(artifact: Artifact) -> str:
    """Return a sentence with the model's size and, if the card states it, its accuracy."""
    accuracy = _accuracy(artifact.card) if artifact.card else None
    recognized = f" recognizes {accuracy}" if accuracy else ""
    return f"A network of {count_parameters(artifact.model):,} parameters{recognized}."


def _accuracy(card: ModelCard) -> str | None:
    """Return the accuracy with the images that it was measured on, or None if it could not be measured."""
    measured = card.measured
    if math.isnan(measured.accuracy):
        return None
    counted = f"{measured.images:,} images"
    source = measured.measured_on.removesuffix(f", {counted}")
    return f"{100 * measured.accuracy:.2f}\N{NO-BREAK SPACE}% of {counted} ({source})"


# ---- Network ---------------------------------------------------------------------------------------------------------


def _model(artifact: Artifact) -> dict[str, Any]:
    """Return the JSON object that ``mnist/templates/model.js`` documents."""
    translated = [_translate(layer) for layer in layers.describe(artifact.model)]
    return {
        "layers": [{**layer, "sizes": [tensor.numel() for tensor in tensors]} for layer, tensors in translated],
        "weights": _encode([tensor for _, tensors in translated for tensor in tensors]),
        "shifts": artifact.model.shifts,
        "mean": MEAN,
        "std": STD,
        "side": IMAGE_SIDE,
        "box": BOX_SIDE,
        "centre": CENTRE,
        "preparation": _preparation(),
        "classes": artifact.classes,
        "threshold": artifact.threshold,
    }


def _preparation() -> dict[str, float]:
    """Return the constants of ``mnist.preparation`` that the page uses, keyed by their JavaScript names."""
    return {
        "maxReadSide": picture.MAX_READ_SIDE,
        "searchSide": search.SEARCH_SIDES[0],
        "maxBorderFraction": search.MAX_BORDER_FRACTION_OF_CROP,
        "minDetailSide": copies.MIN_DETAIL_SIDE,
        "margin": copies.MARGIN,
        "weakInk": components.WEAK_INK,
        "strongInk": components.STRONG_INK,
        "maxExaminedComponents": components.MAX_EXAMINED_COMPONENTS,
        "minTallHeight": components.MIN_TALL_HEIGHT,
        "maxPartGap": components.MAX_PART_GAP,
        "minPartOverlap": components.MIN_PART_OVERLAP,
        "maxTallPartGap": components.MAX_TALL_PART_GAP,
        "minFramedSide": clutter.MIN_FRAMED_SIDE,
        "maxLineThickness": clutter.MAX_LINE_THICKNESS,
        "minLineFill": clutter.MIN_LINE_FILL,
        "maxLevelAngle": clutter.MAX_LEVEL_ANGLE,
        "minBlobFill": clutter.MIN_BLOB_FILL,
        "maxBlobAspectRatio": clutter.MAX_BLOB_ASPECT_RATIO,
        "maxStrokeGap": clutter.MAX_STROKE_GAP,
        "maxStrokeLength": clutter.MAX_STROKE_LENGTH,
        "minRuleLength": clutter.MIN_RULE_LENGTH,
        "minMainArea": clutter.MIN_MAIN_AREA,
        "maxBlobSide": clutter.MAX_BLOB_SIDE,
        "minComponentArea": clutter.MIN_COMPONENT_AREA,
        "minLineSide": lines.MIN_SIDE,
        "minLineCover": lines.MIN_COVER,
        "maxLineSlope": lines.MAX_SLOPE,
        "maxLineThicknessToLength": lines.MAX_THICKNESS,
        "minLineExtent": lines.MIN_EXTENT,
        "minLineRest": lines.MIN_REST,
        "maxLineStrokeRatio": lines.MAX_RELATIVE_THICKNESS,
        "directions": lines.N_DIRECTIONS,
        "minSide": shape.MIN_SIDE,
        "maxAspectRatio": shape.MAX_ASPECT_RATIO,
        "maxComponents": shape.MAX_COMPONENTS,
        "minHoleArea": shape.MIN_HOLE_AREA,
        "minPairAspectRatio": shape.MIN_PAIR_ASPECT_RATIO,
        "minPairHeight": shape.MIN_PAIR_HEIGHT,
        "maxJointHeight": shape.MAX_JOINT_HEIGHT,
        "minJointDistance": shape.MIN_JOINT_DISTANCE,
        "minPairHoleArea": shape.MIN_PAIR_HOLE_AREA,
        "minPairHoleOverlap": shape.MIN_PAIR_HOLE_OVERLAP,
        "minCutAspectRatio": shape.MIN_CUT_ASPECT_RATIO,
        "minHalfWidth": shape.MIN_HALF_WIDTH,
        "minHalfHeight": shape.MIN_HALF_HEIGHT,
        "fullInkRank": placement.FULL_INK_RANK,
        "smallSide": placement.SMALL_SIDE,
        "minStrokeHalfWidth": placement.MIN_STROKE_HALF_WIDTH,
        "minSmallStrokeHalfWidth": placement.MIN_SMALL_STROKE_HALF_WIDTH,
    }


def _translate(layer: Layer) -> tuple[dict[str, Any], list[Tensor]]:
    """Return a layer's kind and settings as ``mnist/templates/network.js`` expects them, and its tensors in that order.

    Raises:
        PageError: if a convolution is dilated.
    """
    match layer:
        case layers.Contrast():
            return {"kind": "contrast", "window": layer.window, "epsilon": layer.epsilon}, []
        case layers.Convolution():
            if layer.dilation != (1, 1):
                raise PageError(f"the page cannot run a convolution with dilation {layer.dilation}")
            outputs, inputs_per_group, *kernel = layer.weight.value.shape
            settings = {"outputs": outputs, "inputs": inputs_per_group, "groups": layer.groups, "kernel": kernel}
            settings |= {"kind": "convolution", "stride": layer.stride, "padding": layer.padding}
            return settings, [layer.weight.value, _bias(layer)]
        case layers.MaxPooling():
            return {"kind": "maxPooling", "kernel": layer.kernel, "stride": layer.stride}, []
        case layers.AveragePooling():
            return {"kind": "averagePooling", "kernel": layer.kernel, "stride": layer.stride}, []
        case layers.Normalization():
            # Fold the normalization into one multiplication and one addition, in float64.
            scale = (layer.variance.value.double() + layer.epsilon).rsqrt() * layer.scale.value
            return {"kind": "normalization"}, [scale, layer.shift.value - layer.mean.value * scale]
        case layers.ReLU():
            return {"kind": "relu"}, []
        case layers.Flatten():
            return {"kind": "flatten"}, []
        case layers.Linear():
            return {"kind": "linear", "outputs": len(layer.weight.value)}, [layer.weight.value, _bias(layer)]


def _bias(layer: Convolution | Linear) -> Tensor:
    return torch.zeros(len(layer.weight.value)) if layer.bias is None else layer.bias.value


def _encode(tensors: Sequence[Tensor]) -> str:
    """Concatenate tensors as little-endian float32 and encode them as base64.

    Raises:
        PageError: if a value is NaN or infinite.
    """
    values = torch.cat([tensor.float().reshape(-1) for tensor in tensors])
    if not values.isfinite().all():
        raise PageError("a weight is NaN or infinite: the page cannot run this network (train it again)")
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()
