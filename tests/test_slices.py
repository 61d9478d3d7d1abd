"""Test the slices of unusual images on strokes of known width, slant and size."""

import dataclasses
import math

import pytest
import torch
from samples import save_model
from strategies import generator
from torch import Tensor, nn

from mnist import gate, transforms
from mnist.gate import slices
from mnist.storage import artifacts
from mnist.transforms import Affine

MEASURES = {"thickness": slices.stroke_thickness, "slant": slices.slant, "size": slices.size}


def stroke(width: float, length: float = 16, *, lean: float = 0, degrees: float = 0) -> Tensor:
    """Draw a straight stroke with smooth edges, float32 [1, 1, 28, 28].

    Args:
        width: across the stroke, pixels.
        length: along the stroke, pixels.
        lean: pixels to the right for each pixel up.
        degrees: rotation, clockwise.
    """
    fine = (torch.arange(28 * 8) + 0.5) / 8 - 14  # eight sampled points for each pixel and axis
    down, right = fine[:, None], fine[None, :]
    right = right + lean * down
    angle = math.radians(degrees)
    along, across = -right * math.sin(angle) + down * math.cos(angle), right * math.cos(angle) + down * math.sin(angle)
    inside = (across.abs() <= width / 2) & (along.abs() <= length / 2)
    return nn.functional.avg_pool2d(inside.float()[None, None], 8)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90])
@pytest.mark.parametrize("width", [2, 3, 4, 5])
def test_thickness_is_the_width_of_a_stroke(width, degrees):
    """The two ends of a short stroke count as edges, too."""
    expected = width * 16 / (16 + width)
    assert slices.stroke_thickness(stroke(width, degrees=degrees)).item() == pytest.approx(expected, rel=0.1)


def test_thickness_does_not_depend_on_the_length_of_a_long_stroke():
    short, long = (slices.stroke_thickness(stroke(2, length)).item() for length in (12, 26))
    assert short == pytest.approx(long, rel=0.1)


@pytest.mark.parametrize("lean", [-0.6, -0.2, 0, 0.1, 0.5])
@pytest.mark.parametrize("width", [1.5, 4])
def test_slant_is_the_lean_of_a_stroke(lean, width):
    """It is positive if the top is to the right of the bottom."""
    assert slices.slant(stroke(width, lean=lean)).item() == pytest.approx(lean, abs=0.02)


@pytest.mark.parametrize("length", [6, 12, 24])
@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_size_is_the_spread_of_a_stroke(length, degrees):
    """A uniform bar has this root-mean-square distance from its centre, and each pixel adds a little of its own."""
    expected = math.sqrt((length**2 + 2**2) / 12)
    assert slices.size(stroke(2, length, degrees=degrees)).item() == pytest.approx(expected, rel=0.05)


def test_shear_changes_the_slant_only():
    upright, sheared = stroke(3, 18), stroke(3, 18, lean=0.2)
    assert slices.slant(sheared).item() - slices.slant(upright).item() == pytest.approx(0.2, abs=0.02)
    for measure in (slices.stroke_thickness, slices.size):
        assert measure(sheared).item() == pytest.approx(measure(upright).item(), rel=0.05)


@pytest.mark.parametrize("measure", MEASURES)
def test_measures_do_not_depend_on_position_or_brightness(subset, measure):
    inner = transforms.to_float(subset.test.images[:100])[..., 3:-3, 3:-3]
    pixels = nn.functional.pad(inner, (3, 3, 3, 3))  # so that roll() moves only zeros to the opposite side
    expected = MEASURES[measure](pixels)
    for changed in (pixels.roll((2, -3), (2, 3)), pixels / 2, pixels / 1000):
        torch.testing.assert_close(MEASURES[measure](changed), expected, rtol=1e-3, atol=1e-3)


def test_measures_follow_the_scale_of_an_image(subset):
    pixels = transforms.to_float(subset.test.images[:200])
    smaller = transforms.affine(pixels, Affine(torch.zeros(200), torch.zeros(200, 2), torch.full((200,), 0.7)))
    torch.testing.assert_close(slices.size(smaller), 0.7 * slices.size(pixels), rtol=0.03, atol=0)
    torch.testing.assert_close(slices.slant(smaller), slices.slant(pixels), rtol=0, atol=0.03)
    assert (slices.stroke_thickness(smaller) < slices.stroke_thickness(pixels)).float().mean() > 0.95


def test_size_of_a_single_pixel_is_0():
    pixel = torch.zeros(1, 1, 28, 28)
    pixel[0, 0, 9, 17] = 1
    assert slices.size(pixel).item() == pytest.approx(0, abs=0.01)
    assert slices.slant(pixel).item() == pytest.approx(0, abs=0.01)


def test_measures_of_a_blank_image_are_finite():
    blank = torch.zeros(1, 1, 28, 28)
    assert all(measure(blank).isfinite().all() for measure in MEASURES.values())


# ---- The slices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "expected"), [(60, 60), (1000, 100), (8000, 200)])
def test_slices_have_the_most_extreme_images(images, expected):
    pixels = torch.rand(images, 1, 28, 28, generator=generator(0)) * torch.rand(
        images, 1, 28, 1, generator=generator(1)
    )
    found = list(slices.extremes(pixels))
    assert len({name for name, _ in found}) == 6
    for (_, lowest), (_, highest), measure in zip(found[::2], found[1::2], MEASURES.values(), strict=True):
        values = measure(pixels)
        assert len(set(lowest.tolist())) == len(lowest) == len(set(highest.tolist())) == expected
        assert values[lowest].max() <= values.sort().values[expected - 1]
        assert values[highest].min() >= values.sort().values[-expected]


@pytest.mark.parametrize(
    ("name", "weak", "strong"),
    [
        ("thickest strokes", stroke(2), stroke(5)),
        ("thinnest strokes", stroke(5), stroke(2)),
        ("leaning right", stroke(3), stroke(3, lean=0.5)),
        ("leaning left", stroke(3), stroke(3, lean=-0.5)),
        ("smallest digits", stroke(3, 20), stroke(3, 10)),
        ("largest digits", stroke(3, 10), stroke(3, 20)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_slices_have_the_images_of_their_name(name, weak, strong):
    pixels = torch.cat([weak.expand(200, -1, -1, -1), strong.expand(100, -1, -1, -1)])
    pixels = pixels[torch.randperm(300, generator=generator(0))]
    chosen = dict(slices.extremes(pixels))[name]
    assert torch.equal(pixels[chosen], strong.expand(100, -1, -1, -1))


class MisreadsThickStrokes(nn.Module):
    """A model that misreads every other image whose strokes are at least that thick."""

    def __init__(self, model: nn.Module, thickness: float):
        super().__init__()
        self.model, self.thickness = model, thickness
        self.eval()

    def forward(self, images):
        logits = self.model(images)
        pixels = transforms.denormalize(images)
        chosen = (slices.stroke_thickness(pixels) >= self.thickness) & (pixels.sum((1, 2, 3)).floor() % 2 == 0)
        return torch.where(chosen[:, None], logits.roll(1, 1), logits)


@pytest.mark.slow
def test_gate_blocks_a_model_that_misreads_thick_strokes(trained, subset, tmp_path):
    """Half of the images in the slice are misread, 5 % of all images."""
    thickness = slices.stroke_thickness(transforms.to_float(subset.test.images)).sort().values[-100].item()
    artifact = artifacts.load(save_model(trained.model, tmp_path))
    policy = gate.load_policy(dataset="subset")
    blocked = {}
    for name, model in {"bad": MisreadsThickStrokes(trained.model, thickness), "good": trained.model}.items():
        evaluation = gate.evaluate(dataclasses.replace(artifact, model=model, card=None), subset, policy)
        blocked[name] = {verdict.criterion: verdict.figure.what for verdict in gate.blocked(evaluation.verdicts)}
    assert blocked["bad"]["slice-accuracy"] == "thickest strokes"
    assert "slice-accuracy" not in blocked["good"]
