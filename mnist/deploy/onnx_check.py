"""Compare an exported ONNX file with the original network: predictions and speed."""

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mnist import architecture, onnx_sessions, transforms
from mnist.architecture import Classifier
from mnist.deploy import export
from mnist.deploy.export import ExportError
from mnist.errors import first_line
from mnist.shapes import IMAGE_SIDE

MAX_PROBABILITY_DIFFERENCE = 1e-5  # allowed difference between ONNX Runtime and PyTorch
TIMED_BATCH_SIZES = (1, 1000)  # numbers of images
MIN_TIMED_ROUNDS = 3
MAX_TIMED_ROUNDS = 1000
TIMING_SECONDS = 2.0  # time limit for each batch size; at least MIN_TIMED_ROUNDS are run

Output = tuple[Tensor, Tensor]  # probabilities, float32 [B, 10], and digits, int64 [B]


@dataclass(frozen=True)
class Agreement:
    """The agreement between ONNX Runtime and PyTorch."""

    images: int  # number of images compared
    same_digit: int  # number of images with the same prediction
    difference: float  # largest absolute difference between the two probabilities of a class

    @property
    def holds(self) -> bool:
        """True if all predictions are the same, and no probability is NaN or differs by more than 1e-5.

        It is False if there were no images.
        """
        return self.images > 0 and self.same_digit == self.images and self.difference <= MAX_PROBABILITY_DIFFERENCE


def check(content: bytes, model: Classifier, images: Tensor) -> Agreement:
    """Compare an ONNX file in ONNX Runtime with the model in PyTorch, on the CPU, for every image.

    Args:
        content: the bytes of the ONNX file.
        model: the model that was exported; it is not changed.
        images: uint8 [N, 1, 28, 28].

    Raises:
        ExportError: if the predictions disagree, there are no images, the file cannot be run, or a package is missing.
    """
    if not len(images):
        raise ExportError("the ONNX file cannot be checked: there are no images")
    run_onnx = _open(content)
    same_digit = 0
    difference = torch.zeros(())
    with torch.inference_mode(), architecture.evaluation_mode(model):
        for batch in images.split(architecture.IMAGES_PER_BATCH):
            expected = _run_torch(model, batch)
            output = run_onnx(batch)
            if _types(output) != _types(expected):
                raise ExportError(f"the ONNX file's outputs are {_types(output)}, not {_types(expected)}")
            same_digit += int((output[1] == expected[1]).sum())
            difference = torch.maximum(difference, (output[0] - expected[0]).abs().max())  # propagates NaN
    agreement = Agreement(len(images), same_digit, difference.item())
    if not agreement.holds:
        raise ExportError(
            f"the ONNX file must not be used: ONNX Runtime and PyTorch predict the same digit on {same_digit:,} of "
            f"{len(images):,} images, and probabilities differ by up to {agreement.difference:.1e} "
            f"(at most {MAX_PROBABILITY_DIFFERENCE:.0e} is allowed)"
        )
    return agreement


# ---- Latency ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latency:
    """The median time to compute the probabilities and digits of a batch of uint8 images."""

    batch: int  # number of images
    onnx: float  # seconds in ONNX Runtime
    torch: float  # seconds in eager PyTorch


def latencies(content: bytes, model: Classifier) -> list[Latency]:
    """Time batches of 1 and 1,000 images in ONNX Runtime and in eager PyTorch.

    The two are timed in turn, so that other load on the machine affects both. They use the same number of threads.

    Raises:
        ExportError: if the file cannot be run, or a package is missing.
    """
    runs: list[Callable[[Tensor], Output]] = [_open(content), functools.partial(_run_torch, model)]
    measured = []
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(), architecture.evaluation_mode(model):
        for batch in TIMED_BATCH_SIZES:
            images = torch.randint(256, (batch, 1, IMAGE_SIDE, IMAGE_SIDE), dtype=torch.uint8, generator=generator)
            for run in runs:
                run(images)  # warm-up
            rounds: list[list[float]] = []
            end = time.perf_counter() + TIMING_SECONDS
            while len(rounds) < MIN_TIMED_ROUNDS or (len(rounds) < MAX_TIMED_ROUNDS and time.perf_counter() < end):
                rounds.append([_seconds(run, images) for run in runs])
            measured.append(Latency(batch, *map(statistics.median, zip(*rounds, strict=True))))
    return measured


def _seconds(run: Callable[[Tensor], Output], images: Tensor) -> float:
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


# ---- Running the model -----------------------------------------------------------------------------------------------


def _run_torch(model: Classifier, images: Tensor) -> Output:
    logits = model(transforms.prepare(images))
    return logits.softmax(1), logits.argmax(1)


def _open(content: bytes) -> Callable[[Tensor], Output]:
    """Return a function that runs the file in ONNX Runtime, with as many threads as PyTorch uses.

    Raises:
        ExportError: if the file cannot be run, or a package is missing. The returned function also raises this error.
    """
    export.import_package("onnxruntime")
    try:
        session = onnx_sessions.create(content, torch.get_num_threads())
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise _cannot_run(error) from error

    def run(images: Tensor) -> Output:
        try:
            probabilities, digit = session.run(["probabilities", "digit"], {"images": images.numpy()})
        except Exception as error:
            raise _cannot_run(error) from error
        return torch.from_numpy(probabilities), torch.from_numpy(digit)

    return run


def _cannot_run(error: Exception) -> ExportError:
    return ExportError(f"ONNX Runtime cannot run the file: {first_line(error)}")


def _types(output: Output) -> str:
    return ", ".join(f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for tensor in output)
