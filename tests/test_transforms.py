"""Test the transforms against torchvision and PyTorch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import affine_parameters, generator, seeds, strengths, uint8_images
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as oracle

from mnist import transforms
from mnist.transforms import Affine


@given(uint8_images())
def test_prepare_equals_torchvision(images):
    expected = oracle.normalize(oracle.to_dtype(images, torch.float32, scale=True), [0.1307], [0.3081])
    torch.testing.assert_close(transforms.prepare(images), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_prepare_rejects_other_dtypes_than_uint8(dtype):
    with pytest.raises(TypeError, match="expected uint8 images"):
        transforms.prepare(torch.zeros(1, 1, 28, 28, dtype=dtype))


@given(seeds, st.integers(1, 4), st.integers(1, 30), st.integers(1, 30))
def test_affine_grid_equals_torch(seed, count, height, width):
    matrices = torch.randn(count, 2, 3, generator=generator(seed))
    expected = F.affine_grid(matrices, [count, 1, height, width], align_corners=False)
    torch.testing.assert_close(transforms.affine_grid(matrices, height, width), expected, rtol=1e-4, atol=1e-5)


@given(st.data(), seeds, st.sampled_from([(28, 28), (5, 5), (20, 31)]), st.sampled_from([1, 3]))
def test_affine_equals_torchvision_for_each_image(data, seed, size, channels):
    """The tolerance is 1e-3 of the range of the pixels, because float32 coordinates are computed in another order."""
    images = torch.rand(4, channels, *size, generator=generator(seed))
    parameters = data.draw(affine_parameters(4))
    ours = transforms.affine(images, parameters)
    shears = torch.zeros(4) if parameters.shear is None else parameters.shear
    for image, result, angle, translation, scale, shear in zip(
        images, ours, parameters.angle, parameters.translation, parameters.scale, shears, strict=True
    ):
        expected = oracle.affine(
            image,
            angle=angle.item(),
            translate=translation.tolist(),
            scale=scale.item(),
            shear=[shear.item(), 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-3)


@given(uint8_images())
def test_affine_with_neutral_parameters_is_the_identity(images):
    pixels, count = transforms.to_float(images), len(images)
    unmoved = Affine(torch.zeros(count), torch.zeros(count, 2), torch.ones(count))
    torch.testing.assert_close(transforms.affine(pixels, unmoved), pixels, rtol=0, atol=1e-4)


def augmented(images, seed, rotation=15, translation=2.8, scaling=0.1):
    moves = transforms.draw_affine(len(images), rotation, translation, scaling, generator(seed))
    return transforms.prepare(images, moves)


@given(uint8_images(), seeds)
def test_augmentation_with_zero_ranges_is_preparation(images, seed):
    assert torch.equal(augmented(images, seed, 0, 0, 0), transforms.prepare(images))


@given(st.integers(0, 50), strengths, seeds)
def test_draw_affine_stays_in_its_ranges(count, strength, seed):
    rotation, translation, scaling = strength
    drawn = transforms.draw_affine(count, rotation, translation, scaling, generator(seed))
    if not any(strength):
        assert drawn is None
        return
    assert drawn.angle.shape == drawn.scale.shape == (count,)
    assert drawn.translation.shape == (count, 2)
    slack = 1 + 1e-6  # float32 rounding
    assert (drawn.angle.abs() <= rotation * slack).all()
    assert (drawn.translation.abs() <= translation * slack).all()
    assert ((drawn.scale - 1).abs() <= scaling + 1e-6).all()


@given(st.integers(1, 50), st.floats(0.1, 60), seeds)
def test_draw_affine_draws_shear_beside_the_rest(count, shear, seed):
    drawn = transforms.draw_affine(count, 0, 0, 0, generator(seed), shear=shear)
    assert drawn.shear.shape == (count,)
    assert (drawn.shear.abs() <= shear * (1 + 1e-6)).all()
    assert torch.equal(drawn[:1].shear, drawn.shear[:1])
    assert drawn.shear.unique().numel() == count


def test_draw_affine_fills_its_ranges_evenly():
    drawn = transforms.draw_affine(100_000, 15, 2.8, 0.1, generator(0))
    for values, half_width in ((drawn.angle, 15), (drawn.translation, 2.8), (drawn.scale - 1, 0.1)):
        counts = torch.histc(values / half_width, bins=10, min=-1, max=1)
        assert (counts / counts.mean() - 1).abs().max() < 0.05


@given(uint8_images(), strengths, seeds)
def test_augmented_pixels_stay_between_0_and_1(images, strength, seed):
    drawn = transforms.draw_affine(len(images), *strength, generator(seed))
    pixels = transforms.to_float(images)
    moved = transforms.affine(pixels, drawn) if drawn else pixels
    assert moved.shape == images.shape
    assert ((moved >= 0) & (moved <= 1 + 1e-5)).all()


@given(uint8_images(), seeds)
def test_augmentation_is_deterministic(images, seed):
    first, second = (augmented(images, seed) for _ in range(2))
    assert torch.equal(first, second)


@given(st.integers(2, 64), seeds)
def test_augmentation_draws_independently_for_each_image(count, seed):
    image = torch.randint(0, 256, (1, 1, 28, 28), dtype=torch.uint8, generator=generator(0))
    batch = augmented(image.expand(count, -1, -1, -1), seed)
    assert len(batch.flatten(1).unique(dim=0)) == count


@given(seeds, st.floats(0, 5))
def test_gaussian_noise_has_the_requested_strength(seed, sigma):
    images = torch.rand(16, 1, 28, 28, generator=generator(seed))
    noise = transforms.add_gaussian_noise(images, sigma, generator(seed)) - images
    assert noise.std().item() == pytest.approx(sigma, rel=0.05, abs=1e-6)
    assert abs(noise.mean().item()) <= 0.05 * sigma + 1e-6
