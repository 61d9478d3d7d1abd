"""Test domain randomization: what each change does to the pixels, and to which images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import generator, seeds
from torch.nn import functional as F

from mnist import randomization

CHANGES = (
    randomization.paste_fragment,
    randomization.change_contrast,
    randomization.convolve,
    randomization.erase,
    randomization.invert,
    randomization.add_noise,
)
every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


def pixels_of(seed: int, count: int = 12) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=generator(seed))


@every_change
@given(seeds, st.integers(1, 12), st.sampled_from([(28, 28), (9, 9)]))
def test_change_keeps_shape_and_dtype(change, seed, count, size):
    pixels = torch.rand(count, 1, *size, generator=generator(seed))
    original = pixels.clone()
    changed = change(pixels, generator(seed))
    assert (changed.shape, changed.dtype) == (pixels.shape, torch.float32)
    assert changed.isfinite().all()
    assert torch.equal(pixels, original), "the input is not modified"


@every_change
def test_change_is_applied_with_its_probability(change):
    """Half of the rows are black, so that a pasted fragment changes the image almost always."""
    pixels = pixels_of(0, 2000)
    pixels[:, :, ::2] = 0
    changed = (change(pixels, generator(1)) != pixels).flatten(1).any(1).float().mean().item()
    expected = {randomization.paste_fragment: 0.6, randomization.convolve: 0.9}.get(change, 0.5)
    assert changed == pytest.approx(expected, abs=0.05)


@every_change
def test_change_draws_independently_for_each_image(change):
    pixels = pixels_of(0, 1).expand(50, -1, -1, -1)
    different = len(change(pixels, generator(0)).flatten(1).unique(dim=0))
    assert different == 2 if change is randomization.invert else different > 15


@every_change
@given(seeds)
def test_change_is_deterministic(change, seed):
    assert torch.equal(change(pixels_of(0, 8), generator(seed)), change(pixels_of(0, 8), generator(seed)))


@given(seeds)
def test_pasted_fragment_only_adds_ink_of_another_image(seed):
    changed = randomization.paste_fragment(pixels := pixels_of(seed), generator(seed))
    others = pixels.roll(1, 0).flatten(1)
    for before, after, other in zip(pixels.flatten(1), changed.flatten(1), others, strict=True):
        added = after[after != before]
        assert (after >= before).all()
        assert torch.isin(added, other).all()


@given(seeds)
def test_contrast_is_a_piecewise_linear_function_of_the_pixel(seed):
    """The levels of the curve are recovered from the image's response to them."""
    ramp = torch.linspace(0, 1, 784).view(1, 1, 28, 28).expand(12, -1, -1, -1)
    response = randomization.change_contrast(ramp, generator(seed))
    pixels = pixels_of(seed)
    for image, changed, curve in zip(
        pixels, randomization.change_contrast(pixels, generator(seed)), response.flatten(1), strict=True
    ):
        knots = curve[[0, 261, 522, 783]]
        expected = np.interp(image.numpy(), [0, 1 / 3, 2 / 3, 1], knots)
        np.testing.assert_allclose(changed.numpy(), expected, atol=1e-5)
    assert ((response >= 0) & (response <= 1)).all()


@given(seeds)
def test_convolution_equals_one_convolution_for_each_image(seed):
    """The kernels are recovered from the response to a single white pixel."""
    centre = torch.zeros(12, 1, 28, 28)
    centre[:, :, 14, 14] = 1
    response = randomization.convolve(centre, generator(seed))
    assert (F.pad(response[:, :, 12:17, 12:17], (12, 11, 12, 11)) == response).all(), (
        "kernels have at most 5 x 5 pixels"
    )
    kernels = response[:, :, 12:17, 12:17].flip(2, 3)
    pixels = pixels_of(seed)
    expected = torch.cat(
        [F.conv2d(image[None], kernel[None], padding=2) for image, kernel in zip(pixels, kernels, strict=True)]
    )
    torch.testing.assert_close(randomization.convolve(pixels, generator(seed)), expected, rtol=1e-4, atol=1e-5)


def test_convolution_kernels_have_all_three_sides():
    centre = torch.zeros(500, 1, 28, 28)
    centre[:, :, 14, 14] = 1
    response = randomization.convolve(centre, generator(0)).flatten(1)
    sizes = set((response != 0).sum(1).tolist())
    assert sizes == {1, 9, 25}


@given(seeds)
def test_erased_part_is_a_rectangle_of_one_grey_level(seed):
    changed = randomization.erase(pixels := pixels_of(seed), generator(seed))
    for before, after in zip(pixels[:, 0], changed[:, 0], strict=True):
        erased = before != after
        if erased.any():
            rows, columns = erased.any(1).nonzero().flatten(), erased.any(0).nonzero().flatten()
            inside = after[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert len(inside.unique()) == 1
            assert inside.numel() <= 0.25 * 784


@given(seeds)
def test_inversion_changes_the_whole_image_or_nothing(seed):
    changed = randomization.invert(pixels := pixels_of(seed), generator(seed))
    inverted = (changed != pixels).flatten(1).any(1)
    assert torch.equal(changed, torch.where(inverted.view(-1, 1, 1, 1), 1 - pixels, pixels))


def test_noise_has_any_strength_up_to_the_stated_one():
    pixels = pixels_of(0, 1000)
    sigma = (randomization.add_noise(pixels, generator(0)) - pixels).flatten(1).std(1)
    assert sigma.max().item() == pytest.approx(0.3, rel=0.05)
    assert sigma[sigma > 0].mean().item() == pytest.approx(0.15, rel=0.1)


def test_erased_rectangles_have_any_size_up_to_the_stated_one():
    pixels = pixels_of(0, 1000)
    area = (randomization.erase(pixels, generator(0)) != pixels).flatten(1).float().mean(1)
    assert 0.15 < area.max() < 0.25


@given(st.integers(0, 20), st.floats(0, 1), seeds)
def test_randomize_changes_the_stated_share(count, share, seed):
    pixels = pixels_of(seed, count)
    changed = randomization.randomize(pixels, share, generator(seed))
    unchanged = count - round(share * count)
    assert changed.shape == pixels.shape
    assert torch.equal(changed[count - unchanged :], pixels[count - unchanged :])


def test_randomize_makes_every_change(monkeypatch):
    """Two pieces of other images are pasted; noise comes last, so that nothing smooths it."""
    made = []

    def record(name: str):
        return lambda pixels, generator: made.append(name) or pixels

    for change in CHANGES:
        monkeypatch.setattr(randomization, change.__name__, record(change.__name__))
    randomization.randomize(pixels_of(0), 1.0, generator(0))
    assert made == ["paste_fragment"] + [change.__name__ for change in CHANGES]


def test_randomize_combines_the_changes():
    pixels = pixels_of(0, 200)
    changed = randomization.randomize(pixels, 1.0, generator(0))
    assert (changed != pixels).flatten(1).any(1).float().mean() > 0.95
