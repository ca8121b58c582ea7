"""What benches judge the robustness of: a trained network on its test images, or one that nothing fools."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from robustscape.benches.harness import seconds_per_unit
from robustscape.benches.problem import Problem, likeliest
from robustscape.config import from_plain
from robustscape.evaluation.subject import subject
from robustscape.models.loading import load
from robustscape.recipes.run import Run
from robustscape.results import read_run
from robustscape.runtime import Runtime, place
from robustscape.training.checkpoints import digest
from robustscape.types import BadInput, Subject

_UNTRAINED = 1e-5  # eps at which next to no input of a network with initial weights is fooled
_TIMES = 6  # that a pass is measured


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """A network and what it is judged on.

    Attributes:
        model: The network as a peer has it: float32, contiguous, in eval mode, on the device.
        x: (N, C, H, W), in [0, 1], on the device.
        y: (N,), labels.
        eps: Radius of the linf ball, in pixel units.
        words: The network and the images in words.
        name: Whose weights, for provenance; "" for initial ones.
        data: Which images, likewise.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    words: str
    name: str = ""
    data: str = "random pixels"

    def subject(self, runtime: Runtime, batch: int) -> Subject:
        """Return them as robustscape takes them: another copy of the network, placed."""
        return subject(place(copy.deepcopy(self.model), runtime), self.x, self.y, runtime=runtime, batch=batch)

    def take(self, rows: Tensor) -> Judged:
        """Return the same with some of the examples: (N,) bool, or int64."""
        return replace(self, x=self.x[rows], y=self.y[rows])


def judged(problem: Problem, folder: str | None, *, n: int, eps: float | None) -> Judged:
    """Return the last network of a run and its first n test images.

    Without a run: the problem's network with initial weights, random pixels, and what it takes them for as labels.

    Args:
        problem: Device, and the network where there is no run.
        folder: The run; None for initial weights.
        n: Images, at least 1.
        eps: Radius; None for that of the run's evaluation, and 1e-5 for initial weights.

    Raises:
        BadInput: no run of robustscape's is there, or it is of another norm than linf.
    """
    if folder is None:
        model, x = problem.model(), problem.examples(n).x
        words = f"{problem.words()}, initial weights"
        y = likeliest(model, x, problem.batch)
        return Judged(model=model, x=x, y=y, eps=_UNTRAINED if eps is None else eps, words=words)
    run = from_plain(read_run(Path(folder))["run"])
    assert isinstance(run, Run)
    if run.evaluation.norm != "linf":
        raise BadInput(f"{folder} is judged under {run.evaluation.norm}, and all peers of this bench under linf")
    device, test = problem.runtime.torch_device(), run.data.load(seed=run.seed).test
    model = load(folder, checkpoint="last")
    return Judged(
        model=model.to(device),
        x=test.pixels()[:n].to(device),
        y=test.y[:n].to(device),
        eps=run.evaluation.eps if eps is None else eps,
        words=f"last network of {folder}, batch {problem.batch}",
        name=f"{folder}, last, {digest(model)[:12]}",
        data=f"{test.name}, first {n}",
    )


def pass_seconds(model: nn.Module, x: Tensor, size: int, runtime: Runtime) -> tuple[float, float]:
    """Return seconds per example of a forward without gradients, and of a forward and a backward to the inputs.

    Medians of a few, after one that does not count.

    Args:
        model: In eval mode.
        x: (N, C, H, W), inputs, repeated as often as the size needs.
        size: Examples at once.
        runtime: Threads and device.
    """
    x = x.repeat(-(-size // len(x)), 1, 1, 1)[:size]

    def forward() -> float:
        with torch.no_grad():
            model(x)
        return size

    def both() -> float:
        inputs = x.clone().requires_grad_()
        torch.autograd.grad(model(inputs).sum(), inputs)
        return size

    one, two = ([seconds_per_unit(side, runtime) for _ in range(_TIMES)][1:] for side in (forward, both))
    return median(one), median(two)
