"""The process that runs a command: exit codes, signals, and the import of PyTorch."""

import os
import signal

from mnist import resources

BLOCKED, BAD_INPUT, INTERRUPTED, TERMINATED = 1, 2, 130, 143  # exit codes
MAX_THREADS = 2  # these networks gain little from more
OPENMP_SETTINGS = {"GOMP_SPINCOUNT": "10000"}  # environment variables that OpenMP reads when torch loads it


def import_torch() -> None:
    """Import PyTorch, and choose the number of its threads unless OMP_NUM_THREADS is set.

    A signal during the import, which takes seconds, would leave PyTorch unusable, so it is delivered afterwards. By
    default, a waiting OpenMP thread spins for so long that training nearly stops when other processes keep the CPU
    busy; OPENMP_SETTINGS shortens the spinning.
    """
    os.environ.update(OPENMP_SETTINGS | os.environ)
    with DeferredSignals() as signals:
        import torch
    signals.deliver()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(MAX_THREADS, torch.get_num_threads(), resources.processors())))


class DeferredSignals:
    """A context manager that only records the first Ctrl-C or SIGTERM. A second one raises KeyboardInterrupt."""

    def __enter__(self) -> "DeferredSignals":
        self.received: int | None = None  # number of the first signal
        # Signals that are already ignored stay ignored: shells make background jobs ignore Ctrl-C.
        numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
        self._previous_handlers = {number: signal.signal(number, self._receive) for number in numbers}
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
