"""Data-parallel training on several processes, started by torchrun.

All processes draw the same image order and the same augmentation. Each process computes its own part of every batch.
After every step, all processes have the weights that a single process would have, up to rounding.
"""

import copy
import gc
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d as c10d
from torch.distributed.rendezvous import rendezvous

from mnist import files
from mnist.errors import MnistError, first_line

MAX_JOIN_SECONDS = 300.0  # maximum time that a process waits for the others to start
_SECONDS_BETWEEN_CHECKS = 0.05  # polling interval of the store, while processes wait for each other

T = TypeVar("T")


class DistributedError(MnistError):
    """Processes of a run that cannot reach each other, or were not started in the same way."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, from the point of view of one of them. A group of one process does not communicate."""

    rank: int = 0  # rank of this process, counted from 0; only rank 0 prints and writes
    size: int = 1  # number of processes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # device of this process

    @property
    def part(self) -> slice:
        """The slice of a batch that this process computes; every item belongs to exactly one process."""
        return slice(self.rank, None, self.size)

    def share(self, batch: Tensor) -> Tensor:
        """Return the items of a batch, along its first dimension, that this process computes."""
        return batch[self.part]

    def replicate(self, model: nn.Module) -> nn.Module:
        """Return the module to call during training, which shares its parameters and buffers with ``model``.

        Its gradients are averaged over the processes, and its batch norms use the statistics of complete batches.
        """
        if self.size == 1:
            return model
        tensors = [*model.parameters(), *model.buffers()]
        replica = copy.deepcopy(model, memo={id(tensor): tensor for tensor in tensors})
        for module in replica.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = _SyncBatchNorm2d
        return nn.parallel.DistributedDataParallel(replica)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return True if ``flag`` is true in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order of rank. A value can be any picklable object."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T) -> T:
        """Return the value that the first process passes, which can be any picklable object."""
        held = [value]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def attempt(self, action: Callable[[], T]) -> T:
        """Call a function in every process and return its result; if it fails in one process, raise an error in all.

        The function must not communicate with the other processes.

        Raises:
            MnistError: if the function raises it in this process.
            OSError: if the function raises it in this process.
            DistributedError: if the function fails in another process.
        """
        error: MnistError | OSError | None = None
        try:
            result = action()
        except (MnistError, OSError) as failure:
            error = failure
        _raise_failure(error, self.gather(None if error is None else _explain(error)))
        return result

    def agree(self, facts: Mapping[str, str]) -> None:
        """Check that all processes pass the same facts: a mapping from names to values, both as text.

        Raises:
            DistributedError: in every process, if a fact differs between processes.
        """
        everywhere = self.gather(dict(facts))
        differences = []
        for name in dict.fromkeys(name for each in everywhere for name in each):
            ranks: dict[str, list[str]] = {}  # keyed by the value that they pass
            for rank, each in enumerate(everywhere):
                ranks.setdefault(each.get(name, "unknown"), []).append(str(rank))
            if len(ranks) > 1:
                values = ", ".join(f"{value} on rank {' '.join(those)}" for value, those in ranks.items())
                differences.append(f"{name}: {values}")
        if differences:
            raise DistributedError(
                f"the processes of this run do not match: {'; '.join(differences)} "
                "(start all of them with the same options, data and files)"
            )


SINGLE_PROCESS = Group()


class _AllReduce(torch.autograd.Function):
    """Differentiable sum over all processes. PyTorch's public function for this is deprecated without a replacement."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _AllReduce.forward(context, gradient)


class _SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the parts of all processes; a part may be empty. ``nn.SyncBatchNorm`` supports only GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = torch.tensor([x.numel() / x.shape[1]], device=x.device)
        sums = _AllReduce.apply(torch.cat([x.sum((0, 2, 3)), count]))
        total, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = x - mean[:, None, None]
        variance = _AllReduce.apply(centred.square().sum((0, 2, 3))) / total
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            # running_var holds the unbiased variance.
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normalized: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalized


@contextmanager
def join(select_device: Callable[[], torch.device]) -> Iterator[Group]:
    """Join the group of processes that torchrun started, or yield a group of one process without torchrun.

    Args:
        select_device: a function that returns a device of the type to compute on: cpu, cuda or mps.

    Raises:
        DistributedError: if another process cannot be reached, fails to select a device, selects one of another type,
            or ends before this one; or if an environment variable that torchrun sets has an invalid value.
        MnistError: if ``select_device`` raises it.
    """
    size = environment_number("WORLD_SIZE", default=1, minimum=1)
    if size == 1:
        yield Group(device=select_device())
        return
    local_rank = environment_number("LOCAL_RANK", default=0)
    environment_number("MASTER_PORT", default=0)
    if (rank := environment_number("RANK", default=0)) >= size:
        raise DistributedError(f"RANK is {rank}, but WORLD_SIZE is {size} (start the run with torchrun)")
    try:
        store, rank, size = next(rendezvous("env://"))
        store, kind = _meet(store, rank, size, select_device)
        device = torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)
        if kind == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=store, rank=rank, world_size=size)
        try:
            yield Group(dist.get_rank(), dist.get_world_size(), device)
        finally:
            gc.collect()  # free all objects that use the group before the group, or the process aborts on exit
            dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise DistributedError(
            f"the processes of this run have lost contact with each other: {first_line(error)}"
        ) from error
    except ValueError as error:
        if "rendezvous" not in str(error):
            raise
        raise DistributedError(f"{first_line(error)} (start the run with torchrun)") from error


def environment_number(name: str, *, default: int, minimum: int = 0) -> int:
    """Return the number in an environment variable that torchrun sets, or the default if it is unset or empty.

    Raises:
        DistributedError: if the value is not a whole number, or is less than ``minimum``.
    """
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    if not (value.isascii() and value.isdecimal() and int(value) >= minimum):
        raise DistributedError(
            f"the environment variable {name} must be a whole number of at least {minimum}, but is {value!r:.40} "
            "(torchrun sets it; remove it to train in one process)"
        )
    return int(value)


def _meet(store: c10d.Store, rank: int, size: int, select_device: Callable[[], torch.device]) -> tuple[c10d.Store, str]:
    """Wait for the other processes; return a store that only these processes use, and their device type.

    Raises:
        DistributedError: if a process does not start in time or cannot select a device, or if the device types differ.
        MnistError: if ``select_device`` raises it.
    """
    kind, failure = "", None
    try:
        if (kind := select_device().type) == "mps":
            raise DistributedError("several processes cannot share an mps device (choose --device cpu)")
    except MnistError as error:
        failure = error
    session, entries = _exchange(store, rank, size, [kind, None if failure is None else str(failure)])
    kinds, failures = zip(*entries, strict=True)
    _raise_failure(failure, failures)
    if len(set(kinds)) > 1:
        shown = ", ".join(f"{kind} on rank {rank}" for rank, kind in enumerate(kinds))
        raise DistributedError(f"the devices of this run's processes differ: {shown} (choose one with --device)")
    return session, kind


def _exchange(store: c10d.Store, rank: int, size: int, value: Any) -> tuple[c10d.Store, list[Any]]:
    """Exchange a JSON value with the other processes; return a store that only these processes use, and all values.

    After a restart, the store still holds the entries of the earlier processes, and the restart counts of two machines
    may differ. Rank 0 therefore opens a new session with a random name. Every other process adds an entry, which also
    has a random name, to the session that it finds. Because this may be an old session, the process looks for the
    session again until rank 0 publishes the entry.
    """
    name = secrets.token_hex(8)
    entry = json.dumps([name, value])
    deadline = time.monotonic() + MAX_JOIN_SECONDS
    entries: list[str] = []
    if rank == 0:
        session = c10d.PrefixStore(name, store)
        store.set("session", name)
        for other in range(1, size):
            _wait_for(session, str(other), other, deadline)
        entries = [entry, *(session.get(str(other)).decode() for other in range(1, size))]
        session.set("entries", json.dumps(entries))
        for other in range(1, size):  # this process may host the store, so wait until the others have read the entries
            _wait_for(session, f"{other} read", other, deadline)
    while entry not in entries:
        _wait_for(store, "session", 0, deadline)
        session = c10d.PrefixStore(store.get("session").decode(), store)
        session.set(str(rank), entry)
        _pause(0, deadline)
        if session.check(["entries"]):
            entries = json.loads(session.get("entries"))
    session.set(f"{rank} read", "")
    return session, [json.loads(each)[1] for each in entries]


def _wait_for(store: c10d.Store, key: str, rank: int, deadline: float) -> None:
    """Wait until process ``rank`` has written a key."""
    while not store.check([key]):
        _pause(rank, deadline)


def _pause(rank: int, deadline: float) -> None:
    """Sleep for one polling interval, or raise an error that names process ``rank`` if the deadline has passed."""
    if time.monotonic() > deadline:
        raise DistributedError(
            f"rank {rank} of this run has not started within {MAX_JOIN_SECONDS:.0f} seconds (see its own output)"
        )
    time.sleep(_SECONDS_BETWEEN_CHECKS)


def _raise_failure(own: MnistError | OSError | None, failures: Sequence[str | None]) -> None:
    """Raise this process's own error, if any, or else an error that names the first process that failed, if any."""
    if own is not None:
        raise own
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise DistributedError(f"rank {rank} of this run failed to start: {failure}")


def _explain(error: MnistError | OSError) -> str:
    return files.explain(error) if isinstance(error, OSError) else str(error)
