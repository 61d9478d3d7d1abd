"""AdamW without torch.compile's wrappers."""

import inspect
from collections.abc import Callable
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW``, with the same arguments and results, for training without ``torch.compile``.

    PyTorch wraps the methods of its optimizers for ``torch.compile``. The first call of a wrapper imports
    ``torch._dynamo`` and sympy, which takes about as long as importing PyTorch.
    """

    add_param_group = inspect.unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.AdamW.zero_grad)
    state_dict = inspect.unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.AdamW.load_state_dict)
    _unwrapped_step = inspect.unwrap(torch.optim.AdamW.step)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; see ``torch.optim.AdamW.step``."""
        return self._unwrapped_step(closure)
