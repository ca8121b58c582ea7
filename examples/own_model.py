"""A network of one's own, with a plain state dict, through evaluate, measure and report, on scikit-learn's digits.

    python examples/own_model.py [FOLDER]

Nothing of robustscape is in the network. What follows the training are the commands that
a user would type, in FOLDER; it takes seconds.
"""

import os
import sys
from pathlib import Path

import torch
from torch import nn

from robustscape.cli import main as robustscape
from robustscape.data.digits import Digits

EASY = ("--flatness.samples", "4", "--flatness.attack.steps", "5", "--flatness.attack.threat.eps", "0.1")


class Net(nn.Module):
    """Two convolutions and a linear layer for images of 8 x 8 pixels in [0, 1]: logits of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.last = nn.Linear(32 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, 10)."""
        h = torch.relu(self.first(2 * x - 1))
        h = torch.relu(self.second(h))
        return self.last(h.flatten(1))


def train(file: Path, steps: int = 300) -> None:
    """Train on the digits as anyone would, and save the state dict."""
    torch.manual_seed(0)
    model, images = Net(), Digits().load(seed=0).train
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        rows = torch.arange(64 * step, 64 * step + 64) % len(images)
        loss = nn.functional.cross_entropy(model(images.pixels(rows)), images.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), file)


def main(folder: str = "runs/own-model") -> None:
    """Train, then run the three commands."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    train(Path("net.pt"))
    own = ["--weights", "net.pt", "--data", "digits", "--out", "net"]
    commands = (
        ["evaluate", "own_model:Net", *own, "--eps", "0.1", "--n", "100", "--splits", "test"],
        ["measure", "own_model:Net", "flatness", *own, "--n", "50", *EASY],
        ["report", "net", "--out", "report.html"],
    )
    for command in commands:
        print("\n$ robustscape", *command)
        if code := robustscape(command):
            sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:2])
