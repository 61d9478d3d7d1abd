"""Read weights files (``state_dict``) from this or another program, and find the network that the weights fit."""

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mnist import architecture as architectures
from mnist.architecture import Classifier
from mnist.errors import MnistError
from mnist.storage import pickles

MAX_WEIGHTS_BYTES = 10_000_000  # a hundred times the size of 25,000 parameters

_STATE_KEYS = ("state_dict", "model_state_dict", "model")  # keys of the weights in other programs' checkpoints
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # added by DistributedDataParallel and torch.compile


class ArtifactError(MnistError):
    """A model file that is missing or damaged, is of another kind, or could run code."""


def load(
    path: Path, content: bytes | bytearray, architecture: str | None, *, match_by_order: bool
) -> tuple[str, Classifier, tuple[str, ...]]:
    """Return the architecture and the network of a weights file, and notices of changes that made the weights fit.

    Args:
        path: path of the file, for messages.
        content: content of the file.
        architecture: name of the architecture that the weights must fit; None: the first one that they fit.
        match_by_order: if ``architecture`` is given, match weights with other names by their order and shapes.

    Raises:
        ArtifactError: if the content is not a state_dict, or its weights do not fit.
    """
    state, nested = _read_state(path, content)
    matched: tuple[str, ...] = ()
    if architecture and match_by_order:
        state, matched = _match(path, state, architecture)
    state, converted = _convert(path, state)
    name, model = _fit(path, state, [architecture] if architecture else list(architectures.ARCHITECTURES))
    return name, model, (*nested, *matched, *converted)


def _read_state(path: Path, weights: bytes | bytearray) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state_dict of a file, and a notice if it was nested in a checkpoint."""
    notices: tuple[str, ...] = ()
    try:
        state = pickles.load(weights, str(path))
    except pickles.RefusedError as error:
        raise ArtifactError(str(error)) from error
    for key in _STATE_KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state, notices = state[key], (*notices, f"{path.name}: used the weights under {key!r}")
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise ArtifactError(f"{path} is not a state_dict (a dictionary of names and tensors)")
    metadata = getattr(state, "_metadata", {})  # PyTorch stores the version of each module here
    if not isinstance(metadata, dict) or not all(isinstance(entry, dict) for entry in metadata.values()):
        raise ArtifactError(f"{path} is not a state_dict that PyTorch wrote: its _metadata has another form")
    return dict(state), notices


def _convert(path: Path, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Remove wrapper prefixes, and convert floating-point weights to float32; also return notices of these changes.

    Raises:
        ArtifactError: if a tensor is neither of a floating-point type nor a batch-norm counter, or if the tensors
            hold too many numbers.
    """
    notices = []
    while state and (prefix := _common_prefix(state)):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        notices.append(f"{path.name}: removed the prefix {prefix!r} from the names of the weights")
    # A small file can hold huge tensors: a tensor made by expand() repeats numbers without storing them.
    if 4 * sum(tensor.numel() for tensor in state.values()) > MAX_WEIGHTS_BYTES:
        raise ArtifactError(f"{path} holds more numbers than fit into {MAX_WEIGHTS_BYTES:,} bytes")
    for name, tensor in state.items():
        expected = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        if tensor.dtype != expected and not (tensor.is_floating_point() and expected == torch.float32):
            raise ArtifactError(f"{path} holds {name!r:.80} as {_dtype_name(tensor)} (weights must be floating-point)")
    if others := sorted({_dtype_name(tensor) for tensor in state.values()} - {"float32", "int64"}):
        notices.append(f"{path.name}: converted {' and '.join(others)} weights to float32")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}, (
        *notices,
    )


def _common_prefix(names: Iterable[str]) -> str | None:
    """Return the wrapper prefix that all names share, or None."""
    names = list(names)
    return next((prefix for prefix in _WRAPPER_PREFIXES if all(name.startswith(prefix) for name in names)), None)


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _match(path: Path, state: dict[str, Tensor], architecture: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Give the weights the names in an architecture if all shapes match in order; also return a notice."""
    expected = architectures.build(architecture, torch.Generator()).state_dict()
    if list(state) == list(expected) or [tensor.shape for tensor in state.values()] != [
        tensor.shape for tensor in expected.values()
    ]:
        return state, ()
    renamed = dict(zip(expected, state.values(), strict=True))
    return renamed, (f"{path.name}: matched the weights with those of {architecture} by their order and shapes",)


def _fit(path: Path, state: dict[str, Tensor], names: Sequence[str]) -> tuple[str, Classifier]:
    """Return the name of the first architecture that the weights fit, and the network with these weights.

    Raises:
        ArtifactError: if the weights fit none of them.
    """
    generator = torch.Generator()
    for name in names:
        model = architectures.build(name, generator)
        with contextlib.suppress(RuntimeError):  # load_state_dict raises it if names or shapes differ
            model.load_state_dict(state)
            return name, model.to(memory_format=torch.channels_last).eval()  # convolutions are faster in this layout
    hint = "" if len(names) == 1 else "; --architecture matches weights by their order and shapes"
    raise ArtifactError(f"{path} holds the weights of another architecture (tried: {', '.join(names)}{hint})")
