"""Test which images of two splits are identical or nearly the same, and how the gate uses the digest files."""

import contextlib
import dataclasses
import hashlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image
from samples import save_model
from strategies import generator, uint8_images, write_printed
from test_card import edit_card

from mnist import architecture, datasets, files, runs
from mnist.cli import process
from mnist.datasets import Split, fingerprints, overlap
from mnist.storage import artifacts
from mnist.storage import card as cards
from mnist.storage.artifacts import ArtifactError

# ---- Digests ---------------------------------------------------------------------------------------------------------


def slow_digest(image: torch.Tensor) -> int:
    pixels = bytes(int(value) for row in image[0].tolist() for value in row)
    return int(hashlib.sha256(pixels).hexdigest()[:16], 16)


@given(images=uint8_images())
def test_digests_are_the_start_of_each_sha256(images):
    found = fingerprints.digests(images)
    assert found.dtype == np.uint64
    assert found.tolist() == [slow_digest(image) for image in images]


def test_digests_of_images_in_another_memory_layout(subset):
    """The digest is that of the pixels row by row, however the tensor lies in memory."""
    images = subset.test.images[:5]
    transposed = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert fingerprints.digests(transposed).tolist() == fingerprints.digests(images).tolist()


def test_split_computes_its_digests_once(subset, monkeypatch):
    split = Split(subset.test.images, subset.test.labels, "some")
    assert np.array_equal(split.digests, fingerprints.digests(subset.test.images))
    monkeypatch.delattr(fingerprints, "digests")
    assert overlap.count_identical(split, split.digests) == len(split)


@given(first=uint8_images(), second=uint8_images())
def test_count_identical_equals_a_comparison_of_all_pairs(first, second):
    known = [image.tolist() for image in second]
    expected = sum(image.tolist() in known for image in first)
    assert (
        overlap.count_identical(Split(first, torch.zeros(len(first)), "images"), fingerprints.digests(second))
        == expected
    )


def test_subset_has_no_image_in_both_parts(subset):
    assert overlap.count_identical(subset.test, subset.train.digests) == 0


# ---- Near-duplicates -------------------------------------------------------------------------------------------------


def as_jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    copies = []
    for image in images[:, 0].numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        copies.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(copies))[:, None]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda images: images.clone(), id="copied"),
        pytest.param(lambda images: images.roll((0, 1), (2, 3)), id="shifted right"),
        pytest.param(lambda images: images.roll((-1, -1), (2, 3)), id="shifted up left"),
        pytest.param(lambda images: as_jpeg(images, 90), id="jpeg 90"),
        pytest.param(lambda images: as_jpeg(images, 75), id="jpeg 75"),
        pytest.param(lambda images: as_jpeg(images.roll((1, 0), (2, 3)), 90), id="shifted down, jpeg 90"),
    ],
)
def test_near_duplicates_finds_changed_copies(subset, change):
    """The copies are sought among many other images."""
    found = overlap.near_duplicates(
        change(subset.test.images[::2]), torch.cat([subset.train.images, subset.test.images])
    )
    assert found.float().mean() >= 0.98


def test_near_duplicates_finds_no_unrelated_images(subset):
    assert not overlap.near_duplicates(subset.test.images, subset.train.images).any()
    assert overlap.count_near_duplicates(subset) == 0


def test_near_duplicates_marks_the_copies_alone(subset):
    images = torch.cat([subset.test.images[:50], subset.train.images[1000:1003].roll(1, 3)])
    assert overlap.near_duplicates(images, subset.train.images).nonzero().flatten().tolist() == [50, 51, 52]


def test_near_duplicates_without_candidates():
    black, white = (torch.full((3, 1, 28, 28), value, dtype=torch.uint8) for value in (0, 255))
    white[:, :, 5:20, 5:9] = 0
    assert overlap.near_duplicates(black, white).tolist() == [False] * 3


def test_count_near_duplicates_counts_test_images(subset):
    leaked = torch.cat([subset.train.images, subset.test.images[:30].roll(1, 2)])
    train = Split(leaked, torch.cat([subset.train.labels, subset.test.labels[:30]]), "leaked")
    assert overlap.count_near_duplicates(dataclasses.replace(subset, train=train)) == 30


# ---- The digest file -------------------------------------------------------------------------------------------------


def digest_file(path: Path) -> Path:
    return cards.digests_path(path)


def test_digest_file_is_sorted_big_endian_without_repeats(trained, subset, tmp_path):
    images = subset.train.images[[0, 5, 5, 2]]
    repeated = dataclasses.replace(subset, train=Split(images, subset.train.labels[[0, 5, 5, 2]], "four images"))
    path = save_model(trained.model, tmp_path, data=repeated)
    expected = sorted({slow_digest(image) for image in images})
    assert digest_file(path).read_bytes() == b"".join(digest.to_bytes(8, "big") for digest in expected)
    assert artifacts.load(path).digests.tolist() == expected


@pytest.mark.parametrize("write", [1, 2, 3])
def test_failed_save_leaves_no_digest_file(trained, subset, tmp_path, monkeypatch, write):
    real, writes = files.write_atomically, []

    def fail(path, content):
        writes.append(path.suffix)
        if len(writes) == write:
            raise OSError("no space")
        real(path, content)

    monkeypatch.setattr(files, "write_atomically", fail)
    with pytest.raises(OSError, match="no space"):
        save_model(trained.model, tmp_path / "models", data=subset)
    assert writes == [".digests", ".json", ".pth"][:write], "the weights come last"
    assert list((tmp_path / "models").iterdir()) == []


def test_missing_digest_file_makes_all_images_possibly_seen(model, subset):
    digest_file(model).unlink()
    artifact = artifacts.load(model)
    assert artifact.digests is None
    assert artifact.possibly_seen(subset)[0] == 1000
    assert digest_file(model).name in artifact.possibly_seen(subset)[1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-8],
        lambda content: content[:-1],
        lambda content: content + bytes(8),
        lambda content: b"\xff" + content[1:],
        lambda content: b"",
    ],
    ids=["entry missing", "byte missing", "entry added", "bit flipped", "empty"],
)
def test_load_refuses_a_damaged_digest_file(model, damage):
    digest_file(model).write_bytes(damage(digest_file(model).read_bytes()))
    with pytest.raises(ArtifactError, match=r"\.digests is damaged"):
        artifacts.load(model)


def test_load_refuses_a_digest_file_of_another_length(model):
    """Whoever writes the card can give the file any SHA-256."""
    digest_file(model).write_bytes(bytes(20))
    edit_card(model, digests_sha256=hashlib.sha256(bytes(20)).hexdigest())
    with pytest.raises(ArtifactError, match=r"\.digests is not a digest file"):
        artifacts.load(model)


def test_load_refuses_a_huge_digest_file(model):
    with digest_file(model).open("wb") as file:
        file.truncate(artifacts.MAX_DIGESTS_BYTES + 1)
    with pytest.raises(ArtifactError, match="more than the limit"):
        artifacts.load(model)


def test_digests_decide_whatever_the_order_of_images(trained, subset, tmp_path):
    """Data of the same name that were shuffled or that grew are compared image by image."""
    artifact = artifacts.load(save_model(trained.model, tmp_path, data=subset))
    images, labels = subset.test.images, subset.test.labels
    grown = Split(torch.cat([images, subset.train.images[:7]]), torch.cat([labels, subset.train.labels[:7]]), "grown")
    shuffled = Split(images.flip(0), labels.flip(0), "shuffled")
    assert artifact.possibly_seen(dataclasses.replace(subset, test=shuffled))[0] == 0
    assert artifact.possibly_seen(dataclasses.replace(subset, test=grown))[0] == 7


def test_without_digests_changed_data_of_the_same_name_are_possibly_seen(trained, subset, tmp_path):
    """The SHA-256 on the card tells whether the data have changed."""
    path = save_model(trained.model, tmp_path, data=subset)
    artifact = artifacts.load(path)
    without = dataclasses.replace(artifact, digests=None, card=dataclasses.replace(artifact.card, digests_sha256=None))
    changed = dataclasses.replace(subset, test=Split(subset.test.images[1:], subset.test.labels[1:], "changed"))
    assert without.possibly_seen(subset)[0] == 0
    assert without.possibly_seen(changed)[0] == 999
    found = without.possibly_seen(dataclasses.replace(changed, name="photos"))
    assert found == (None, "its card names no digest file, and subset may contain them")


# ---- Models of folders -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    """Write a folder of printed digits, divided into train and test."""
    write_printed(tmp_path / "scans" / "train", each=4)
    write_printed(tmp_path / "scans" / "test", each=2, first=4)
    return tmp_path / "scans"


@pytest.mark.slow
def test_gate_blocks_on_training_images_that_moved_to_the_test_part(mnist, trained, folder, tmp_path):
    before = datasets.load("scans", Path())
    path = save_model(trained.model, tmp_path / "models", data=before)
    assert artifacts.load(path).possibly_seen(before)[0] == 0
    for digit in (1, 4, 7):
        shutil.move(folder / "train" / str(digit) / "0.png", folder / "test" / str(digit) / "renamed.png")
    assert artifacts.load(path).possibly_seen(datasets.load("scans", Path()))[0] == 3
    finished = mnist("gate", path)
    assert finished.code == process.BLOCKED
    assert "possibly-seen-images" in finished.out.splitlines()[-2]
    assert "trained on 3 of the 23 images" in finished.err


@pytest.mark.slow
def test_fine_tuned_model_carries_the_digests_of_its_origin(model, folder, subset):
    settings = runs.Settings(overrides={"epochs": 1.0}, init=model, dataset="scans", device="cpu")
    tuned = artifacts.load(runs.train(settings).path)
    of_both = torch.cat([subset.train.images, datasets.load("scans", Path()).train.images])
    assert tuned.digests.tolist() == sorted({slow_digest(image) for image in of_both})
    seen = Split(subset.train.images[:12], subset.train.labels[:12], "seen before fine-tuning")
    assert tuned.possibly_seen(dataclasses.replace(subset, test=seen))[0] == 12
    assert tuned.possibly_seen(subset)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("lost", [".digests", ".json"])
def test_training_images_are_unknown_if_those_of_the_origin_are(model, folder, subset, lost):
    """Weights without a card, or whose digest file was removed, cannot become innocent by fine-tuning."""
    (model.with_suffix(lost)).unlink()
    digest_file(model).unlink(missing_ok=True)
    settings = runs.Settings(overrides={"epochs": 1.0}, init=model, dataset="scans", device="cpu")
    tuned = artifacts.load(runs.train(settings).path)
    scans = datasets.load("scans", Path())
    assert len(tuned.digests) == len(np.unique(scans.train.digests)), "the digests of its own training images"
    seen = dataclasses.replace(scans, test=scans.train)
    assert tuned.possibly_seen(seen)[0] == len(scans.train)
    assert tuned.possibly_seen(scans) == (None, f"it is not known on which images {model.name} was trained")
    assert tuned.possibly_seen(subset)[0] == (None if lost == ".digests" else 1000), "without a card, assume MNIST"
    twice = runs.Settings(overrides={"epochs": 1.0}, init=tuned.path, dataset="scans", device="cpu")
    assert artifacts.load(runs.train(twice).path).possibly_seen(scans)[0] is None


@pytest.mark.slow
@pytest.mark.parametrize("change", ["nothing", "removed", "replaced"])
def test_resumed_run_keeps_the_digests_of_its_origin(model, folder, subset, change):
    settings = runs.Settings(
        overrides={"epochs": 1.0}, init=model, dataset="scans", device="cpu", models_dir=model.parent
    )
    stop = contextlib.nullcontext(runs.TrainingCallbacks(stop=lambda: True))
    with pytest.raises(runs.RunInterrupted):
        runs.train(settings, callbacks=lambda group: stop)
    if change == "removed":
        model.unlink()
    elif change == "replaced":  # by another model of the same name
        other = save_model(architecture.build("cnn", generator(5)), model.parent.parent / "other", data=subset)
        for suffix in (".pth", ".json", ".digests"):
            shutil.copy(other.with_suffix(suffix), model.with_suffix(suffix))
    result = runs.train(dataclasses.replace(settings, init=None, resume=True))
    tuned = artifacts.load(result.path)
    seen = dataclasses.replace(subset, test=Split(subset.train.images[:12], subset.train.labels[:12], "seen before"))
    assert tuned.card.training.resumed == 1
    assert tuned.possibly_seen(seen)[0] == (12 if change == "nothing" else None)
