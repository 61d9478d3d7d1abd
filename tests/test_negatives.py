"""Test the loading of images without a digit: EMNIST's letters, and folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from strategies import idx_bytes, printed, write_raw

from mnist import datasets, preparation
from mnist.datasets import DatasetError, UnavailableError

LETTERS = torch.arange(1, 27, dtype=torch.uint8)


@pytest.fixture
def emnist(tmp_path) -> Path:
    """Return a data folder with EMNIST's files for 26 images, one of each letter, as torchvision stores them."""
    images = torch.arange(26 * 784, dtype=torch.int64).remainder(251).to(torch.uint8).view(26, 28, 28)
    write_raw(
        tmp_path,
        "EMNIST",
        [idx_bytes(images), idx_bytes(LETTERS), idx_bytes(images[:3]), idx_bytes(LETTERS[:3])],
        split="letters",
    )
    return tmp_path


def test_emnist_letters_are_upright_and_do_not_look_like_digits(emnist):
    negatives = datasets.load_negatives("emnist-letters", emnist)
    stored = torch.arange(26 * 784, dtype=torch.int64).remainder(251).to(torch.uint8).view(26, 28, 28)
    kept = [ord(letter) - ord("A") for letter in "ACDEFHJKMNPRTUVWXY"]
    assert torch.equal(negatives.images[:, 0], stored[kept].transpose(1, 2))
    assert negatives.description == "EMNIST letters that do not look like digits, 18 images"


@pytest.mark.usefixtures("public_mirrors")
def test_emnist_letters_without_network_are_unavailable(tmp_path):
    with pytest.raises(UnavailableError, match="could not download EMNIST"):
        datasets.load_negatives("emnist-letters", tmp_path)


def test_incomplete_emnist_is_reported(emnist):
    (emnist / "EMNIST/raw/emnist-letters-train-labels-idx1-ubyte").unlink()
    with pytest.raises(DatasetError, match="EMNIST is incomplete or damaged"):
        datasets.load_negatives("emnist-letters", emnist)


def test_folder_is_prepared_like_pictures_of_digits(tmp_path):
    (tmp_path / "deeper").mkdir()
    paths = [tmp_path / "b.png", tmp_path / "deeper/a.png"]
    for digit, path in zip((3, 5), paths, strict=True):
        printed(digit).save(path)
    printed(3).save(tmp_path / "again.png")
    Image.new("L", (64, 64)).save(tmp_path / "blank.png")
    lines = []
    negatives = datasets.load_negatives(str(tmp_path), Path("data"), lines.append)
    expected = {preparation.prepare_file(path).tobytes() for path in paths}
    assert {np.asarray(image).tobytes() for image in negatives.images[:, 0]} == expected
    assert negatives.images.shape == (2, 1, 28, 28)
    assert negatives.description == f"{tmp_path}, 2 images"
    assert lines == [
        f"preparing 4 images in {tmp_path}",
        f"1 of 4 images in {tmp_path} are left out (unreadable, or not one shape)",
    ]


def test_names_of_files_do_not_change_the_order(tmp_path):
    fingerprints = set()
    for number, names in enumerate((("a", "b"), ("b", "a"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for digit, name in enumerate(names):
            printed(digit + 3).save(folder / f"{name}.png")
        fingerprints.add(datasets.load_negatives(str(folder), Path("data")).fingerprint)
    assert len(fingerprints) == 1


@pytest.mark.parametrize("name", ["no-such-folder", "emnist"])
def test_unknown_name_is_refused(tmp_path, name):
    with pytest.raises(DatasetError, match=f"there is no folder at {name}"):
        datasets.load_negatives(name, tmp_path)


def test_folder_without_usable_image_is_refused(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "blank.png")
    with pytest.raises(DatasetError, match="no usable image"):
        datasets.load_negatives(str(tmp_path), tmp_path)
