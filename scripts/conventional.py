"""Train like a conventional MNIST script. The benchmark compares the recipes with this program.

    python scripts/conventional.py --workers 2

The program uses torchvision's data set, PIL transforms and a DataLoader. The network, batch size, optimizer, epoch and
augmentation are those of the recipe `baseline`, and the number of threads is PyTorch's default. The program prints one
line of JSON.
"""

import argparse
import json
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def main() -> None:
    """Train for an epoch, measure the accuracy on the test set, and print both as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=0, help="processes that load the data (default: %(default)s)")
    parser.add_argument("--images", type=int, default=60_000, help="number of training images (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    prepare = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    augment = transforms.RandomAffine(15, translate=(0.1, 0.1), scale=(0.9, 1.1))
    train = datasets.MNIST("data", train=True, transform=transforms.Compose([augment, *prepare]))
    test = datasets.MNIST("data", train=False, transform=transforms.Compose(prepare))
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 12, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(588, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    criterion = nn.CrossEntropyLoss()
    subset = torch.utils.data.Subset(train, range(options.images))
    loader = DataLoader(subset, batch_size=64, shuffle=True, num_workers=options.workers)

    started = time.perf_counter()
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
    seconds = time.perf_counter() - started

    model.eval()
    n_correct = 0
    with torch.no_grad():
        for images, labels in DataLoader(test, batch_size=1000):
            n_correct += int((model(images).argmax(1) == labels).sum())
    print(json.dumps({"seconds": seconds, "accuracy": n_correct / len(test)}))


if __name__ == "__main__":
    main()
