"""Data-parallel training on several processes, started by torchrun.

All processes draw the same order of images and the same augmentation. Each computes its own part of every batch, and
after every step all have the weights that a single process would have, up to rounding.
"""

import copy
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d as c10d
from torch.distributed.rendezvous import rendezvous

from mnist.errors import MnistError, first_line


class DistributedError(MnistError):
    """Processes of a run that cannot reach each other."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, from the point of view of one of them. A single process exchanges nothing."""

    rank: int = 0  # of this process, counted from 0; only rank 0 prints and writes
    size: int = 1  # number of processes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  # of this process

    @property
    def part(self) -> slice:
        """The items of a batch that this process computes; every item belongs to exactly one process."""
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
        """Return the sum over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Return True if ``flag`` is true in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def from_first(self, content: bytes | None) -> bytes | None:
        """Return the content that rank 0 passes."""
        held = [content]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]


SINGLE_PROCESS = Group()


class _AllReduce(torch.autograd.Function):
    """Sum over all processes, with a gradient. PyTorch's public function for this is deprecated without a successor."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _AllReduce.forward(context, gradient)


class _SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the parts of all processes, which may be empty. PyTorch's own supports only GPUs."""

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
            self.running_var.lerp_(
                variance * total / (total - 1), self.momentum
            )  # running_var is the unbiased variance
        scale = self.weight * (variance + self.eps).rsqrt()
        normalized: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalized


@contextmanager
def join(kind: str) -> Iterator[Group]:
    """Join the group of processes that torchrun started, or yield a group of one without torchrun.

    Args:
        kind: type of the device, cpu, cuda or mps.

    Raises:
        DistributedError: if another process cannot be reached, or ends before this one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group(device=torch.device(kind))
        return
    if kind == "mps":
        raise DistributedError("several processes cannot share an mps device (choose --device cpu)")
    device = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    try:
        store, rank, size = next(rendezvous("env://"))
        # After a restart the store still holds the addresses of the earlier processes. A new prefix hides them.
        fresh = c10d.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=fresh, rank=rank, world_size=size)
        try:
            yield Group(dist.get_rank(), dist.get_world_size(), device)
        finally:
            gc.collect()  # objects that use the group must be freed before it, or the process aborts on exit
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
