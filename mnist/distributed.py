"""One training run on several processes: torchrun starts them, each takes its share of every batch, and all agree.

Every process draws the same order and the same augmentation, takes every n-th image, and ends every step with the
weights that a single process would have, up to rounding.
"""

import copy
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d as c10d
from torch.distributed.rendezvous import rendezvous

from mnist.errors import MnistError, first_line


class DistributedError(MnistError):
    """The processes of a run cannot find each other, or one of them is gone."""


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them. A group of one is a process by itself: nothing is exchanged.

    rank: which one this is, from 0 on; rank 0 alone shows and writes; size: how many there are.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    def share(self, batch: Tensor) -> Tensor:
        """What this process takes of a batch, along its first dimension: shares are disjoint and make up the whole."""
        return batch[self.rank :: self.size]

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model to call in training: its gradients are means over the processes, its batch norms see whole batches.

        Its parameters and buffers are those of ``model``, which trains along.
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
        """The sum over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def from_first(self, content: bytes | None) -> bytes | None:
        """What rank 0 has."""
        held = [content]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]


ALONE = Group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(context, gradient)


class _SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the shares of all processes; PyTorch's own knows only GPUs. A share may be empty."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        count = torch.tensor([x.numel() / x.shape[1]], device=x.device)
        sums = _Sum.apply(torch.cat([x.sum((0, 2, 3)), count]))
        total, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / total
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)  # that one is unbiased
        scale = self.weight * (variance + self.eps).rsqrt()
        normalized: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalized


@contextmanager
def join(kind: str) -> Iterator[Group]:
    """The group that torchrun started this process in, or a group of one; ``kind``: of device, cpu, cuda or mps.

    Raises:
        DistributedError: the others cannot be reached, or one of them ends before this one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if kind == "mps":
        raise DistributedError("several processes cannot share an mps device (choose --device cpu)")
    device = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    try:
        store, rank, size = next(rendezvous("env://"))
        # After a restart the store still holds the addresses of the processes before: these must not find them.
        fresh = c10d.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=fresh, rank=rank, world_size=size)
        try:
            yield Group(dist.get_rank(), dist.get_world_size(), device)
        finally:
            gc.collect()  # of what still holds the group: freed at the end of the process, it would abort that
            dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise DistributedError(f"the processes of this run have lost each other: {first_line(error)}") from error
    except ValueError as error:
        if "rendezvous" not in str(error):
            raise
        raise DistributedError(f"{first_line(error)} (start it with torchrun)") from error
