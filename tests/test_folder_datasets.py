"""A folder of labelled images as a data set."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import write_printed

from mnist import datasets, files, preparation, runs
from mnist.datasets import DIGITS, DatasetError
from mnist.preparation import ImageError
from mnist.runs import Settings
from mnist.storage import artifacts


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Write a folder with seven images of each digit."""
    return write_printed(tmp_path_factory.mktemp("folders") / "photos", each=7)


@pytest.fixture
def copied(photos, tmp_path) -> Path:
    """Copy the folder, so that the test can change it."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def rows(*splits: datasets.Split) -> set[tuple[bytes, int]]:
    """Return all images of the splits with their labels."""
    return {
        (image.numpy().tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    }


def prepared(folder: Path) -> set[tuple[bytes, int]]:
    """Prepare all images in a folder, and return them with their labels."""
    return {(preparation.prepare_file(path).tobytes(), int(path.parent.name)) for path in folder.rglob("*.png")}


@pytest.mark.slow
def test_load_prepares_and_labels_every_image(photos, tmp_path):
    lines = []
    loaded = datasets.load(str(photos), tmp_path, notify=lines.append)
    assert rows(loaded.train, loaded.test) == prepared(photos)
    assert loaded.train.images.dtype == torch.uint8
    assert loaded.train.images.shape[1:] == (1, 28, 28)
    assert loaded.train.classes == loaded.test.classes == DIGITS
    assert (loaded.name, loaded.kind) == (str(photos), "folder")
    assert loaded.test.description == f"{photos}, test split, {len(loaded.test)} images"
    assert loaded.train.description == f"{photos}, training split, {70 - len(loaded.test)} images"
    assert lines[0] == f"preparing 70 images in {photos}"


# Contents of files. The last byte is not zero, because the tests pad with zeros and strip them again.
content = st.binary(min_size=1, max_size=4).map(lambda random: random + b"!")
contents = st.lists(st.lists(content, min_size=2, unique=True), min_size=10, max_size=10)


def write_contents(folder: Path, classes: list[list[bytes]]) -> Path:
    """Write each content, after a byte with its class, to a file in the folder of the class."""
    for digit, mine in enumerate(classes):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
        for content in mine:
            (folder / str(digit) / f"{content.hex()}.png").write_bytes(bytes([digit]) + content)
    return folder


@pytest.fixture
def replace_preparation(monkeypatch) -> Callable[[int], None]:
    """Replace the preparation by a function whose pixels depend on the file's bytes and on a version."""

    def replace(version: int) -> None:
        def prepare(path: Path) -> np.ndarray:
            pixels = path.read_bytes().ljust(28 * 28, b"\0")
            return (np.frombuffer(pixels, np.uint8) ^ version).reshape(28, 28)

        monkeypatch.setattr(preparation, "prepare_files", partial(map, prepare))

    return replace


def held_out(folder: Path, version: int) -> set[bytes]:
    """Return the contents of the files that are held out."""
    test = datasets.load_folder(folder).test.images.numpy() ^ version
    return {image.tobytes().rstrip(b"\0") for image in test}


@given(contents)
@settings(max_examples=15)
def test_split_depends_only_on_the_bytes_of_the_files(tmp_path_factory, replace_preparation, classes):
    """It does not depend on the prepared pixels, which another version or another processor may change slightly."""
    folder = write_contents(tmp_path_factory.mktemp("bytes"), classes)
    replace_preparation(0)
    before = held_out(folder, 0)
    replace_preparation(170)
    assert held_out(folder, 170) == before
    for digit, mine in enumerate(classes):
        chosen = {c for c in mine if hashlib.sha256(bytes([digit]) + c).digest()[0] < 51}
        if 0 < len(chosen) < len(mine):
            assert {bytes([digit]) + c for c in chosen} == {c for c in before if c[0] == digit}


@pytest.mark.slow
@given(contents, contents)
@settings(max_examples=15)
def test_split_is_stable_when_images_are_added(tmp_path_factory, replace_preparation, early, late):
    folder = write_contents(tmp_path_factory.mktemp("growing"), early)
    replace_preparation(0)
    lines = []
    datasets.load_folder(folder, lines.append)
    before = held_out(folder, 0)
    after = held_out(write_contents(folder, late), 0)
    adjusted_classes = [
        re.search(r"class ([\d, ]+): the division by SHA-256 left one split empty", line) for line in lines
    ]
    adjusted = [int(name) for match in adjusted_classes if match for name in match[1].split(", ")]
    for digit, mine in enumerate(early):
        files_before = {bytes([digit]) + c for c in mine}
        if digit not in adjusted:
            assert before & files_before == after & files_before


@pytest.mark.parametrize("each", [2, 9, 400])
def test_split_holds_out_a_fifth_of_each_class(tmp_path, replace_preparation, each):
    """In a small class, at least one image is held out and at least one is not."""
    replace_preparation(0)
    classes = [[f"{digit} {number}!".encode() for number in range(each)] for digit in range(10)]
    loaded = datasets.load_folder(write_contents(tmp_path, classes))
    for split in (loaded.train, loaded.test):
        assert split.labels.bincount(minlength=10).min() >= 1
    assert len(rows(loaded.train, loaded.test)) == len(loaded.train) + len(loaded.test) == 10 * each
    if each == 400:
        assert 0.18 < len(loaded.test) / (10 * each) < 0.22


@pytest.mark.slow
def test_copies_of_an_image_are_in_one_split(copied):
    """A copy in another format has other bytes, for which the rule may choose the other split."""
    for path in list(copied.rglob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".bmp"))
    loaded = datasets.load_folder(copied)
    assert len(loaded.train) + len(loaded.test) == 70
    assert not {image for image, _ in rows(loaded.train)} & {image for image, _ in rows(loaded.test)}


def test_folder_with_the_name_of_a_data_set_keeps_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_printed(Path("subset"), each=2)
    loaded = datasets.load(f".{os.sep}subset", tmp_path)
    assert (loaded.name, loaded.kind) == (f".{os.sep}subset", "folder")
    assert datasets.load(loaded.name, tmp_path).fingerprint == loaded.fingerprint


def test_split_does_not_depend_on_file_names(photos, tmp_path):
    renamed = tmp_path / "renamed"
    for number, path in enumerate(sorted(photos.rglob("*.png"), reverse=True)):
        (renamed / path.parent.name / "deeper").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, renamed / path.parent.name / "deeper" / f"{number:03}.PNG")
    original, other = datasets.load_folder(photos), datasets.load_folder(renamed)
    assert original.fingerprint == other.fingerprint
    assert rows(original.test) == rows(other.test)


@pytest.mark.slow
def test_duplicate_images_are_ignored_with_a_notice(copied):
    expected = datasets.load_folder(copied).fingerprint
    shutil.copy(copied / "3" / "0.png", copied / "3" / "again.png")
    with Image.open(copied / "5" / "1.png") as image:
        image.resize((64, 64)).convert("RGB").save(copied / "5" / "again.bmp")  # the same image after preparation
    lines = []
    assert datasets.load_folder(copied, lines.append).fingerprint == expected
    assert lines[1] == "2 of these images are duplicates and are ignored"


def test_train_and_test_folders_are_the_splits(tmp_path):
    write_printed(tmp_path / "train", each=2)
    write_printed(tmp_path / "test", each=3, first=2)
    loaded = datasets.load_folder(tmp_path)
    assert rows(loaded.train) == prepared(tmp_path / "train")
    assert rows(loaded.test) == prepared(tmp_path / "test")
    assert loaded.test.description == f"{tmp_path / 'test'}, 30 images"


def test_image_in_both_train_and_test_is_refused(tmp_path):
    write_printed(tmp_path / "train", each=2)
    write_printed(tmp_path / "test", each=1, first=2)
    shutil.copy(tmp_path / "train" / "4" / "0.png", tmp_path / "test" / "4" / "another name.png")
    with pytest.raises(DatasetError, match=": 1 images are in both train and test"):
        datasets.load_folder(tmp_path)
    shutil.copy(tmp_path / "train" / "5" / "0.png", tmp_path / "test" / "6" / "another digit.png")
    with pytest.raises(DatasetError, match=": 2 images are in both train and test"):
        datasets.load_folder(tmp_path)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder / "6")


def _empty(folder: Path) -> None:
    _remove(folder)
    (folder / "6").mkdir()
    (folder / "6" / "notes.txt").write_text("no image", encoding="utf-8")
    (folder / "6" / ".hidden.png").write_bytes(b"")


def _keep_one(folder: Path) -> None:
    for path in list((folder / "6").iterdir())[1:]:
        path.unlink()


def _keep_one_twice(folder: Path) -> None:
    _keep_one(folder)
    shutil.copy(next((folder / "6").iterdir()), folder / "6" / "again.png")


def _label_nine_as_six(folder: Path) -> None:
    shutil.copy(folder / "9" / "0.png", folder / "6" / "nine.png")


def _add_text(folder: Path) -> None:
    (folder / "6" / "text.png").write_text("no image", encoding="utf-8")


def _add_blank(folder: Path) -> None:
    Image.new("L", (50, 50), 255).save(folder / "6" / "blank.png")


@pytest.mark.parametrize(
    ("change", "named", "complaint"),
    [
        (_remove, "", "has no folder 6 (there must be one for each digit, 0 to 9)"),
        (_empty, "6", "contains no image"),
        (_keep_one, "6", "contains only one image (add another image"),
        (_keep_one_twice, "6", "contains only one image"),
        (_label_nine_as_six, "", "shows the same image as a file of digit 6: 1 (9/0.png)"),
        (_label_nine_as_six, "", "shows the same image as a file of digit 9: 1 (6/nine.png)"),
        (_add_text, "", "1 of 71 images are unusable: is not an image that can be read: 1 (6/text.png) (correct"),
        (_add_blank, "", "no digit found: 1 (6/blank.png) (correct or remove them, or leave them out with --skip"),
    ],
)
def test_unusable_folder_is_refused(copied, change, named, complaint):
    """The message says what is wrong and in which file or folder."""
    change(copied)
    with pytest.raises(DatasetError) as error:
        datasets.load_folder(copied)
    assert complaint in str(error.value)
    assert str(copied / named) in str(error.value)
    assert "\n" not in str(error.value)


def add_unusable(folder: Path) -> None:
    """Add four blank images and a text file to a folder with 70 images."""
    for digit in (7, 2, 6, 1):
        Image.new("L", (50, 50), 250 + digit).save(folder / str(digit) / "blank.png")
    _add_text(folder)


def test_unusable_images_are_reported_at_once_by_reason(copied):
    add_unusable(copied)
    with pytest.raises(DatasetError) as error:
        datasets.load_folder(copied)
    assert str(error.value) == (
        f"{copied}: 5 of 75 images are unusable: no digit found: 4 (1/blank.png, 2/blank.png, 6/blank.png, ...); "
        "is not an image that can be read: 1 (6/text.png) "
        "(correct or remove them, or leave them out with --skip-unusable SHARE)"
    )


def test_unusable_images_of_train_and_test_are_reported_together(tmp_path):
    for part, number in (("train", 0), ("test", 2)):
        write_printed(tmp_path / part, each=2, first=number)
        _add_text(tmp_path / part)
    with pytest.raises(DatasetError, match=r"2 of 42 images .*: 2 \(train/6/text.png, test/6/text.png\)"):
        datasets.load_folder(tmp_path)
    loaded = datasets.load_folder(tmp_path, skip_unusable=0.05)
    assert loaded.train.description == f"{tmp_path / 'train'} without 1 unusable image, 20 images"


@pytest.mark.slow
@pytest.mark.parametrize(("share", "allowed"), [(5 / 75, True), (0.0666, False)])
def test_skip_unusable_leaves_out_up_to_a_share(photos, copied, share, allowed):
    """The other images stay in their split, and the fingerprint is that of the images in use."""
    add_unusable(copied)
    lines = []
    if not allowed:
        with pytest.raises(DatasetError, match=r"5 of 75 images are unusable, more than 6\.66%"):
            datasets.load_folder(copied, skip_unusable=share)
        return
    loaded = datasets.load_folder(copied, lines.append, skip_unusable=share)
    assert loaded.fingerprint == datasets.load_folder(photos).fingerprint
    assert loaded.test.description == (f"{copied} without 5 unusable images, test split, {len(loaded.test)} images")
    assert lines[1].startswith(f"5 of 75 images in {copied} are unusable and are left out: no digit found: 4 (1/blank")


@pytest.mark.slow
def test_skip_unusable_leaves_out_images_with_two_labels(copied):
    _label_nine_as_six(copied)
    loaded = datasets.load_folder(copied, skip_unusable=0.1)
    for path in (copied / "9" / "0.png", copied / "6" / "nine.png"):
        path.unlink()
    assert rows(loaded.train, loaded.test) == prepared(copied)


def test_class_without_usable_images_is_refused(copied):
    for path in (copied / "6").iterdir():
        path.write_bytes(path.name.encode())
    with pytest.raises(DatasetError, match="split: no usable image of digit 6"):
        datasets.load_folder(copied, skip_unusable=0.5)


@given(contents, st.data())
@settings(max_examples=15)
def test_split_does_not_move_when_images_become_unusable(tmp_path_factory, replace_preparation, classes, data):
    """The image of a small class that moves to the other split is chosen before preparation."""
    folder = write_contents(tmp_path_factory.mktemp("unusable"), classes)
    replace_preparation(0)
    before = held_out(folder, 0)
    paths = sorted(folder.rglob("*.png"))
    unusable = data.draw(st.sets(st.sampled_from(paths), min_size=1, max_size=3))
    prepare = preparation.prepare_files

    def prepare_usable(paths: Iterable[Path]) -> Iterator[np.ndarray | ImageError]:
        paths = list(paths)
        return (
            ImageError("") if path in unusable else image for path, image in zip(paths, prepare(paths), strict=True)
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "prepare_files", prepare_usable)
        try:
            after = datasets.load_folder(folder, skip_unusable=0.9).test.images.numpy()
        except DatasetError as error:
            assert "no usable image of digit" in str(error)  # noqa: PT017 (the other outcome is correct, too)
            return
    assert {image.tobytes().rstrip(b"\0") for image in after} == before - {path.read_bytes() for path in unusable}


def test_unreadable_file_is_reported(copied, monkeypatch):
    def read(path: Path, limit: int, read: Callable = files.read) -> bytearray:
        if path == copied / "3" / "1.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, limit)

    monkeypatch.setattr(files, "read", read)
    with pytest.raises(DatasetError, match=r"cannot be read: 1 \(3/1.png\)"):
        datasets.load_folder(copied)
    loaded = datasets.load_folder(copied, skip_unusable=0.1)
    assert len(loaded.train) + len(loaded.test) == 69


@pytest.mark.slow
@pytest.mark.parametrize("share", ["0.07", "7%", "6.67%"])
def test_skip_unusable_is_an_option_of_commands(mnist, copied, share):
    add_unusable(copied)
    command = ("data", "--dataset", copied)
    assert "5 of 75 images are unusable" in mnist(*command).err
    finished = mnist(*command, "--skip-unusable", share)
    assert finished.code == 0
    assert f"5 of 75 images in {copied} are unusable and are left out" in finished.err


@pytest.mark.parametrize("share", ["1", "100%", "-0.1", "nan", "inf", "five", "", "%", "1e999999999", "sNaN"])
def test_skip_unusable_refuses_an_invalid_share(mnist, share):
    finished = mnist("data", "--skip-unusable", share)
    assert finished.code == 2
    assert f"{share!r} is not a share below 1, such as 0.05, or a percentage below 100%, such as 5%" in finished.err


def test_skipped_images_are_recorded_on_the_card(copied):
    add_unusable(copied)
    options = Settings(dataset=str(copied), skip_unusable=0.1, overrides={"epochs": 1}, device="cpu")
    card = artifacts.load(runs.train(options).path).card
    assert "without 5 unusable images" in card.dataset.train
    assert "without 5 unusable images" in card.dataset.test
    assert "without 5 unusable images" in card.measured.measured_on


def test_load_takes_the_path_of_a_folder(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert datasets.load("photos", tmp_path).name == "photos"
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        with pytest.raises(DatasetError, match=f"no data set is called '{name}', and no folder has this path"):
            datasets.load(name, tmp_path)


def test_load_prefers_a_data_set_to_a_folder_of_its_name(photos, tmp_path, monkeypatch, subset):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, tmp_path / "subset")
    assert datasets.load("subset", tmp_path).fingerprint == subset.fingerprint
