"""ONNX models for the gate: each runs in a separate process with limits on memory and time."""

import contextlib
import hashlib
import io
import json
import math
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mnist import files, onnx_worker, transforms
from mnist.datasets import DIGITS, Dataset
from mnist.errors import MnistError
from mnist.gate.measurement import StoredNumbers
from mnist.shapes import CLASSES

AUTO = "auto"  # determine the range of the pixels automatically
MAX_ONNX_BYTES = 100_000_000
MAX_MEMORY_BYTES = 2_000_000_000  # memory limit of the process that runs the model
MAX_ADDRESS_SPACE = 16_000_000_000  # bytes; on Linux, for the same process; libraries reserve much more than they use
MAX_OPEN_SECONDS = 60.0
MAX_ANSWER_SECONDS = 30.0  # time limit for one batch
MAX_TOTAL_SECONDS = 900.0  # time limit for all batches together
SECONDS_BETWEEN_CHECKS = 0.02
MAX_ACCURACY_DIFFERENCE = 0.03  # the loss decides among ranges whose accuracy is this close to the best
IMAGES_TO_TRY = 500  # number of training images on which the range of the pixels is determined
MAX_ROUNDING_ERROR = 1e-3  # of a pixel in 0..255 that was normalized and denormalized
MIN_PROBABILITY = 1e-30  # replaces smaller probabilities, because the logarithm of 0 is infinite
MAX_SUM_DIFFERENCE = 1e-3  # largest difference between 1 and the sum of an image's probabilities


class OnnxError(MnistError):
    """An ONNX file that cannot be judged."""


@dataclass(frozen=True)
class OnnxModel:
    """A classifier in an ONNX file, with the attributes that the gate requires of a model."""

    path: Path
    bytes: int  # total size of the file and its external weights
    sha256: str  # SHA-256 of the file and its external weights, hexadecimal
    stored: StoredNumbers
    model: nn.Module  # maps normalized images, float32 [N, 1, 28, 28], to logits, float32 [N, 10]
    description: str  # format of input and output, and the accuracies that show it
    classes: tuple[str, ...] = DIGITS
    notices: tuple[str, ...] = ()
    card: None = None
    architecture: None = None
    log: tuple[()] = ()  # the file has no training log

    def initial_model(self) -> None:
        """Return None: the file does not hold the network before training, and its gradients cannot be computed."""

    def possibly_seen(self, dataset: Dataset) -> tuple[None, str]:
        """Return None, because the training images are unknown, and a message."""
        return None, "the file does not say which images the model was trained on"


def load(path: Path, dataset: Dataset, input_range: str = AUTO) -> OnnxModel:
    """Open an ONNX file, and determine the format of its input.

    The input can have the shape [N, 1, 28, 28], [N, 28, 28, 1], [N, 28, 28] or [N, 784], with a fixed or arbitrary
    number of images N, and can hold integers or floating-point numbers. The output can be logits, probabilities, or
    labels with probabilities.

    Args:
        dataset: its training images decide between layouts and ranges if several are possible.
        input_range: range of the pixels, a key of :data:`mnist.onnx_worker.RANGES`; with ``auto``, the range with the
            lowest cross-entropy on training images, among those whose accuracy is at most 3 percentage points below the
            highest.

    Raises:
        OnnxError: if the file is missing, is not such a classifier, or exceeds a limit on memory or time.
    """
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        raise OnnxError(f"{path} needs the packages onnx and onnxruntime (python -m pip install 'mnist[export]')")
    try:
        content = bytes(files.read(path, MAX_ONNX_BYTES))
    except FileNotFoundError:
        raise OnnxError(f"there is no model at {path}") from None
    except files.UnreadableError as error:
        raise OnnxError(str(error)) from error
    worker = Worker(path)
    try:
        answer = worker.open(content)
        trials = list(_try_inputs(worker, answer, dataset, input_range))
    except BaseException:
        worker.close()
        raise
    best = _best(trials)
    description = _describe(answer, trials, best)
    return OnnxModel(
        path=path,
        bytes=len(content) + answer["external_bytes"],
        sha256=_digest(content, answer),
        stored=StoredNumbers(answer["parameters"], answer["weights_not_finite"]),
        model=OnnxNetwork(worker, best.layout, best.range, best.probabilities),
        description=description,
        notices=(f"{path}: {description}",),
    )


def _digest(content: bytes, answer: dict[str, Any]) -> str:
    """Return the SHA-256 of a file; if it has external weights, of its content followed by their SHA-256."""
    external = bytes.fromhex(answer["external_sha256"]) if answer["external_bytes"] else b""
    return hashlib.sha256(content + external).hexdigest()


# ---- The input -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """The results of a model on training images, with one input layout and one pixel range."""

    layout: str
    range: str
    images: int
    correct: int  # images that were recognized
    loss: float  # mean cross-entropy
    probabilities: bool  # True: the scores are probabilities; False: logits


def _try_inputs(worker: "Worker", answer: dict[str, Any], dataset: Dataset, input_range: str) -> Iterator[_Trial]:
    """Yield a trial for each layout and range that the model accepts.

    Raises:
        OnnxError: if the model accepts none of them.
    """
    chosen = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:IMAGES_TO_TRY]
    pixels = dataset.train.images[chosen].float()
    labels = dataset.train.labels[chosen]
    ranges = [name for name in answer["ranges"] if input_range in (AUTO, name)]
    if not ranges:
        raise OnnxError(
            f"{worker.path} expects {answer['dtype']} pixels (use --input-range {answer['ranges'][0]} or auto)"
        )
    first_error, found = None, False
    for layout in answer["layouts"]:
        for name in ranges:
            try:
                scores = worker.answer(pixels, layout, name)
            except OnnxRefusedError as error:
                first_error = first_error or error
                continue
            found = True
            probabilities = are_probabilities(scores)
            logits = to_logits(scores, probabilities)
            correct = int((logits.argmax(1) == labels).sum())
            yield _Trial(layout, name, len(labels), correct, F.cross_entropy(logits, labels).item(), probabilities)
    if not found and first_error:
        raise first_error


def _best(trials: list[_Trial]) -> _Trial:
    """Return the trial with the lowest loss among those whose accuracy is close to the highest.

    Many networks also recognize images that are 255 times brighter than their training images, and sometimes, by
    chance, even slightly better. Their wrong predictions are then overconfident, so the loss is higher.
    """
    accuracy = max(trial.correct / trial.images for trial in trials)
    accurate = [trial for trial in trials if trial.correct / trial.images >= accuracy - MAX_ACCURACY_DIFFERENCE]
    return min(accurate, key=lambda trial: (math.isnan(trial.loss), trial.loss))


def are_probabilities(scores: Tensor) -> bool:
    """Return True if the scores, float32 [N, 10], are between 0 and 1 and those of each image add up to 1."""
    return bool((scores >= 0).all() and ((scores.sum(1) - 1).abs() <= MAX_SUM_DIFFERENCE).all())


def to_logits(scores: Tensor, probabilities: bool) -> Tensor:
    """Convert scores, float32 [N, 10], to logits. A negative probability becomes NaN."""
    if not probabilities:
        return scores
    return torch.where(scores < 0, torch.nan, scores).clamp(min=MIN_PROBABILITY).log()


def _describe(answer: dict[str, Any], trials: list[_Trial], best: _Trial) -> str:
    batch = f", {answer['batch']} images at a time" if answer["batch"] else ""
    others = [f"{trial.range}: {trial.correct / trial.images:.1%}" for trial in trials if trial is not best]
    evidence = f"{best.correct / best.images:.1%} of {best.images} training images recognized"
    evidence += f"; with {', '.join(others)}" if others else ""
    kind = "probabilities" if best.probabilities else "logits"
    return f"input {answer['dtype']} {best.layout}{batch}, pixels {best.range} ({evidence}); output: {kind}"


class OnnxNetwork(nn.Module):
    """An ONNX model wrapped as a PyTorch module without parameters.

    ``forward`` takes normalized images, as all networks do. It denormalizes them, exactly for integer pixels, and
    converts them to the range that the model expects. An empty batch is not sent to the model.
    """

    def __init__(self, worker: "Worker", layout: str, range: str, probabilities: bool) -> None:
        super().__init__()
        self._worker, self._layout, self._range, self._probabilities = worker, layout, range, probabilities

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 [N, 10], of normalized images, float32 [N, 1, 28, 28]."""
        if not len(images):
            return torch.empty(0, CLASSES)
        pixels = 255 * transforms.denormalize(images.cpu())
        # Unmodified images have integer pixels: restore them exactly, in case the model compares them with a threshold.
        whole = pixels.round()
        pixels = torch.where((pixels - whole).abs() < MAX_ROUNDING_ERROR, whole, pixels)
        return to_logits(self._worker.answer(pixels, self._layout, self._range), self._probabilities)


# ---- The process -----------------------------------------------------------------------------------------------------


class OnnxRefusedError(OnnxError):
    """A request that an ONNX model refused; it may accept others."""


class Worker:
    """A process that runs an ONNX model (:mod:`mnist.onnx_worker`) and is killed when it exceeds a limit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._remaining = MAX_TOTAL_SECONDS
        # Use this process's module path: with the default path, the new process could import from the current folder.
        code = f"import sys; sys.path[:] = {sys.path!r}; from mnist.onnx_worker import main; main()"
        self._process = subprocess.Popen(  # noqa: S603  the program is Python itself
            [_interpreter(), "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._requests, self._answers = cast("BinaryIO", self._process.stdin), cast("BinaryIO", self._process.stdout)
        self._finalizer = weakref.finalize(self, _stop, self._process)

    def open(self, content: bytes) -> dict[str, Any]:
        """Open the model, and return its description, such as the format of its input.

        Raises:
            OnnxError: if the model cannot be opened.
        """
        settings = {
            "address_space": MAX_ADDRESS_SPACE if sys.platform == "linux" else None,
            "folder": str(self.path.parent.absolute()),
            "threads": torch.get_num_threads(),
        }
        return self._request(settings, content, MAX_OPEN_SECONDS)[0]

    def answer(self, pixels: Tensor, layout: str, pixel_range: str) -> Tensor:
        """Return the scores, float32 [N, 10], of images, float32 [N, 1, 28, 28] with pixels between 0 and 255.

        Raises:
            OnnxRefusedError: if the model does not accept these images.
            OnnxError: if the model exceeds a limit, or has exceeded one before.
        """
        if self._remaining <= 0:
            raise OnnxError(f"{self.path} cannot be judged: its predictions took {MAX_TOTAL_SECONDS:.0f} s in total")
        request = onnx_worker.to_npy(pixels[:, 0].contiguous().numpy())
        started = time.perf_counter()
        try:
            _, scores = self._request({"layout": layout, "pixel_range": pixel_range}, request, MAX_ANSWER_SECONDS)
        finally:
            self._remaining -= time.perf_counter() - started
        return torch.from_numpy(scores)

    def close(self) -> None:
        """End the process."""
        self._finalizer()

    def _request(self, settings: dict[str, Any], body: bytes, seconds: float) -> tuple[dict[str, Any], Any]:
        """Send a request; return the answer and the scores (None if there are none)."""
        with _Watchdog(self._process, seconds) as watchdog:
            try:
                onnx_worker.send(self._requests, json.dumps(settings).encode())
                onnx_worker.send(self._requests, body)
                content = onnx_worker.receive(self._answers)
                answer = json.loads(content) if content else None
                scores = None
                if answer == {}:
                    content = onnx_worker.receive(self._answers) or b""
                    scores = np.load(io.BytesIO(content), allow_pickle=False)
            except (OSError, ValueError, EOFError):  # the process has ended
                answer = None
        if answer is None:
            self.close()
            raise OnnxError(f"{self.path} cannot be judged: {watchdog.reason or 'ONNX Runtime crashed'}")
        if "error" in answer:
            raise OnnxRefusedError(f"{self.path} cannot be judged: {answer['error']}")
        return answer, scores


def _interpreter() -> str:
    """Return the path of Python. On Windows, ``sys.executable`` may be a launcher, whose memory tells nothing."""
    base = getattr(sys, "_base_executable", None) if sys.platform == "win32" else None
    return base or sys.executable


class _Watchdog:
    """A context manager that kills a process if it takes too long or uses too much memory."""

    def __init__(self, process: "subprocess.Popen[bytes]", seconds: float) -> None:
        self.reason = ""  # why the process was killed
        self._process, self._seconds = process, seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        end = time.monotonic() + self._seconds
        try:
            while not self._done.wait(SECONDS_BETWEEN_CHECKS):
                if time.monotonic() > end:
                    self._kill(f"it took longer than {self._seconds:.0f} s")
                elif psutil.Process(self._process.pid).memory_info().rss > MAX_MEMORY_BYTES:
                    self._kill(f"it needs more than {MAX_MEMORY_BYTES / 1e9:.1f} GB of memory")
        except psutil.Error:
            return  # the process has ended

    def _kill(self, reason: str) -> None:
        self.reason = self.reason or reason
        self._process.kill()


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process, and close its pipes."""
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream:
            with contextlib.suppress(OSError):  # if the process had not read the whole request
                stream.close()
    process.wait()
