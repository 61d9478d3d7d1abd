"""The process that runs a command: exit codes, signals, internal errors, and the import of PyTorch."""

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from mnist.errors import MnistError

BLOCKED, BAD_INPUT, INTERNAL_ERROR = 1, 2, 3  # exit codes
SIGNAL_BASE = 128  # exit code 128 + N: signal N ended the command
INTERRUPTED = SIGNAL_BASE + signal.SIGINT
# Sent by Ctrl-C, by kill, when the terminal closes, and by Slurm before the time limit. Windows lacks the last two.
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
MAX_THREADS = 2  # these networks gain little from more threads
OPENMP_SETTINGS = {"GOMP_SPINCOUNT": "10000"}  # environment variables that OpenMP reads when torch loads it


def import_torch() -> None:
    """Import PyTorch, and choose the number of its threads unless OMP_NUM_THREADS is set.

    Garbage collection is disabled during the import, and later collections skip all objects that exist at its end.
    There are so many of them that collections would take a fifth of the import time, and most of the time that the
    process needs to exit. The import takes seconds, and a signal during the import would leave PyTorch unusable, so
    signals are delivered afterwards. By default, a waiting OpenMP thread spins for so long that training nearly stops
    when other processes keep the CPU busy; OPENMP_SETTINGS shortens the spinning.

    Raises:
        MnistError: if PyTorch is not installed.
    """
    from mnist import resources

    os.environ.update(OPENMP_SETTINGS | os.environ)
    first = "torch" not in sys.modules
    with DeferredSignals() as signals, _without_garbage_collection() if first else contextlib.nullcontext():
        try:
            import torch
        except ModuleNotFoundError as error:
            if error.name != "torch":  # PyTorch is installed, but a package that it requires is missing
                raise
            raise MnistError(
                "PyTorch is not installed; without it, mnist predict can use an ONNX file (--model model.onnx)"
            ) from error
    signals.deliver()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(MAX_THREADS, torch.get_num_threads(), resources.processors())))


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Disable garbage collection in the block; exempt all objects that exist at its end from later collections."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _signals_to_handle() -> list[signal.Signals]:
    """Return the signals that stop a command, except those that are ignored.

    Shells make background jobs ignore SIGINT, and nohup makes a program ignore SIGHUP.
    """
    numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt on a stop signal; yield a list that receives the number of the signal."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    previous_handlers = {number: signal.signal(number, interrupt) for number in _signals_to_handle()}
    try:
        yield received
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


class DeferredSignals:
    """A context manager that postpones the first stop signal. A second one raises KeyboardInterrupt at once."""

    def __enter__(self) -> "DeferredSignals":
        self.received: int | None = None  # number of the first signal
        self._previous_handlers = {number: signal.signal(number, self._receive) for number in _signals_to_handle()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def deliver(self) -> None:
        """Raise the recorded signal, if there is one."""
        if self.received is not None:
            signal.raise_signal(self.received)


def save_traceback(error: Exception) -> Path | None:
    """Write the traceback of an internal error to a temporary file; return its path, or None if that fails."""
    import tempfile
    import traceback

    try:
        descriptor, name = tempfile.mkstemp(prefix="mnist_error_", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
    except OSError:
        return None
    return Path(name)
