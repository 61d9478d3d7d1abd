"""Test the optimizer: it equals PyTorch's, without the import of torch._dynamo."""

import subprocess
import sys

import pytest
import torch
from strategies import generator
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from mnist import architecture, optimizers


def train(optimizer_class: type[torch.optim.Optimizer]) -> tuple[dict[str, torch.Tensor], dict]:
    """Train for 20 steps, restoring a saved state once, and return the weights and the state of the optimizer."""
    model = architecture.build("fast", generator(0)).train()
    optimizer = optimizer_class([{"params": model.parameters(), "weight_decay": 0.1}], lr=0.01, fused=True)
    schedule = OneCycleLR(optimizer, max_lr=0.01, total_steps=20)
    for step in range(20):
        images = torch.randn(16, 1, 28, 28, generator=generator(step))
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.arange(16) % 10).backward()
        optimizer.step()
        schedule.step()
        if step == 9:
            optimizer.load_state_dict(optimizer.state_dict())
    return model.state_dict(), optimizer.state_dict()


def test_adamw_equals_that_of_pytorch():
    (weights, state), (expected_weights, expected_state) = train(optimizers.AdamW), train(torch.optim.AdamW)
    assert all(torch.equal(weights[name], expected) for name, expected in expected_weights.items())
    assert state["param_groups"] == expected_state["param_groups"]
    torch.testing.assert_close(state["state"], expected_state["state"], rtol=0, atol=0)


def test_adamw_evaluates_a_closure_with_gradients():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = optimizers.AdamW([parameter], lr=0.1)

    def closure() -> torch.Tensor:
        loss = parameter.square().sum()
        optimizer.zero_grad()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3
    assert (parameter < 1).all()


@pytest.mark.slow
def test_training_does_not_import_dynamo():
    program = (
        "import sys, torch; from mnist import recipes, trainer\n"
        "images = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)\n"
        "trainer.train(recipes.get('fast', epochs=1), images, torch.arange(64) % 10)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert finished.stdout == "False\n"
