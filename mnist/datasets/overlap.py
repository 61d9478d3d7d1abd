"""Find images that two splits share: identical images by their digests, near-duplicates by a perceptual hash."""

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mnist.datasets.fingerprints import Digests
from mnist.datasets.splits import Dataset, Split

MAX_SHIFT_PIXELS = 1  # maximum shift between near-duplicates, along each axis
MAX_RELATIVE_DISTANCE = 0.12  # of near-duplicates; JPEG compression at quality 75 changes an image by 0.05 to 0.11

# The fingerprints of data sets for which :func:`count_near_duplicates` is 0; scripts/gate_bounds.py checks this.
WITHOUT_NEAR_DUPLICATES = {"1e35582d42a90940c55b956deb61875c020b567ed20e3c5b174f52bf7809ed9b"}  # MNIST

_counts = dict.fromkeys(WITHOUT_NEAR_DUPLICATES, 0)  # number of near-duplicates, keyed by the data set's fingerprint

_FREQUENCIES = range(1, 6)  # frequencies of the row and column sums that the perceptual hash uses
_MAX_HASH_DISTANCE = 20.0  # maximum difference between near-duplicates in each feature of the hash
_PAIRS_AT_ONCE = 10_000


def count_identical(split: Split, known: Digests) -> int:
    """Return the number of images whose digest is among the known digests."""
    return int(np.isin(split.digests, known).sum())


def count_near_duplicates(dataset: Dataset) -> int:
    """Return the number of test images that are near-duplicates of training images."""
    if dataset.fingerprint not in _counts:  # the search takes a second, and several models can be judged in a row
        _counts[dataset.fingerprint] = int(near_duplicates(dataset.test.images, dataset.train.images).sum())
    return _counts[dataset.fingerprint]


def near_duplicates(images: Tensor, others: Tensor) -> Tensor:
    """Return for each image whether it is a near-duplicate of one of the others, bool [N].

    Two images are near-duplicates if their perceptual hashes are similar and, after a shift by at most one pixel along
    each axis, their distance is at most 12 % of the distance of the first from a uniform image of the same mean.
    Examples are shifted or re-encoded copies. The hash does not depend on the position of the digit.

    Args:
        images: uint8 [N, 1, 28, 28].
        others: uint8 [M, 1, 28, 28].
    """
    from scipy.spatial import cKDTree

    found = torch.zeros(len(images), dtype=torch.bool)
    neighbours = cKDTree(_hash(others)).query_ball_point(_hash(images), _MAX_HASH_DISTANCE, p=np.inf)
    candidates = [(row, column) for row, columns in enumerate(neighbours) for column in columns]
    pairs = torch.tensor(candidates, dtype=torch.int64).view(-1, 2)
    for rows, columns in (part.unbind(1) for part in pairs.split(_PAIRS_AT_ONCE)):
        found[rows[_are_close(images[rows].float(), others[columns].float())]] = True
    return found


def _hash(images: Tensor) -> npt.NDArray[np.float64]:
    """Return the magnitudes of low frequencies of the row sums and the column sums, float64 [N, 10].

    A shift with wrap-around does not change them.
    """
    sums = np.stack([images[:, 0].numpy().sum(axis, dtype=np.int32) for axis in (2, 1)], axis=1)
    return np.abs(np.fft.rfft(sums)[:, :, _FREQUENCIES]).reshape(len(images), -1) / images.shape[-1]


def _are_close(images: Tensor, others: Tensor) -> Tensor:
    """Return for each pair of images, float32 [P, 1, 28, 28] each, whether they are near-duplicates, bool [P]."""
    contrast = (images - images.mean((2, 3), keepdim=True)).flatten(1).norm(dim=1)
    shifts = range(-MAX_SHIFT_PIXELS, MAX_SHIFT_PIXELS + 1)
    distances = [
        (images.roll(shift, (2, 3)) - others).flatten(1).norm(dim=1) for shift in itertools.product(shifts, shifts)
    ]
    return torch.stack(distances).amin(0).le(MAX_RELATIVE_DISTANCE * contrast)
