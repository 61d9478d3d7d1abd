"""Load the newest model without this project's package, and check its accuracy on MNIST's test set.

This program defines the network itself. PyTorch loads the weights, and torchvision loads the images. The exit code is 1
if the accuracy is not above 97.5 %.
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.datasets import MNIST

MIN_ACCURACY = 0.975


class Net(nn.Module):
    """The architecture `cnn`: two convolutions with pooling, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 12, 3, padding=1)
        self.fc1 = nn.Linear(12 * 7 * 7, 24)
        self.fc2 = nn.Linear(24, 10)
        self.pool = nn.MaxPool2d(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        return self.fc2(torch.relu(self.fc1(x.view(-1, 12 * 7 * 7))))


def main() -> None:
    """Check the newest model in `models/` with the images in `data/`; both folders are in the working directory."""
    path = max(Path("models").glob("mnist_model_*.pth"), key=lambda path: path.stat().st_mtime)
    net = Net()
    net.load_state_dict(torch.load(path, weights_only=True))
    test = MNIST("data", train=False)
    images = (test.data[:, None].float() / 255 - 0.1307) / 0.3081
    with torch.inference_mode():
        accuracy = (net(images).argmax(1) == test.targets).float().mean().item()
    print(f"{path} in an independent program: {accuracy:.2%} of {len(test):,} test images (minimum {MIN_ACCURACY:.1%})")
    sys.exit(accuracy <= MIN_ACCURACY)


if __name__ == "__main__":
    main()
