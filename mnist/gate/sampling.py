"""Choose samples of the test images independently of the order of the images."""

import torch
from torch import Tensor

from mnist.datasets import Split


def canonical_order(split: Split) -> Tensor:
    """Return the indices that sort images by their bytes and labels."""
    rows = torch.cat([split.images.flatten(1), split.labels[:, None].to(torch.uint8)], 1).contiguous().numpy()
    return torch.from_numpy(rows.view(f"V{rows.shape[1]}").ravel().argsort(kind="stable"))


def evenly_spaced(total: int, count: int, offset: int = 0) -> Tensor:
    """Return ``count`` evenly spaced indices below ``total``, or all indices if there are fewer, int64 [count].

    Different offsets give different indices, until all indices have been used.
    """
    count = min(count, total)
    # The last index without an offset is total - ceil(total / count), so the largest offset reaches the end.
    return torch.arange(count) * total // count + offset % -(-total // count)
