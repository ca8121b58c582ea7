"""The Hessian of the mean loss over given inputs, as products with flat vectors."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape import modes
from robustscape.evaluation.judging import batches, judge, search
from robustscape.landscape._twice import Twice
from robustscape.runtime.predicting import available, bytes_per_example, fitting
from robustscape.runtime.ranks import world
from robustscape.runtime.settings import exact_products
from robustscape.types import Attack, BadInput, Diverged, Params, Subject
from robustscape.weights.space import Scope, filter_norms, nothing_moves, select

Coordinates: TypeAlias = Literal["raw", "layer", "filter"]
"""What a step of 1 is: 1 in every weight, or the L2 norm of the weight's layer or filter."""

_GRAPH = 4.0  # bytes of a graph that is differentiated twice over those of one that is differentiated once


def each_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each example, (N,), nats."""
    return F.cross_entropy(logits, y, reduction="none")


class HessianOperator:
    """H v for H the Hessian, with respect to the weights, of the mean loss over inputs that are held.

    In relative coordinates it is D H D, with D the diagonal of the norms of the layers (or filters): the Hessian in
    u where the weights are w + D u. A layer of norm 0 does not move there, nor under "filter" parameters of one
    dimension, which have no filters.

    A product is a backward pass through the graph of the gradient, batch by batch, in eval mode and the weights'
    own precision; the mean over the examples is exact, whatever the batches. Graphs are of the weights at the time
    they were made: an operator is for one point of the weights, and moving them makes the next product an error.
    The model is left without a trace.

    Args:
        model: Maps inputs to logits.
        x: (N, ...), inputs, held: of a Hessian of an adversarial loss the adversarial ones.
        y: (N,), labels.
        scope: Which parameters, see ``weights.space.select``.
        coordinates: "raw", or relative to each "layer" or "filter".
        batch: Examples at once.
        kept: Of how many batches the graph stays from product to product; None for all. A batch whose graph does
            not stay is differentiated anew for every product, which takes about half as long again.
        loss: Logits and labels to the loss of each example, (N,).

    Attributes:
        size: D, the number of weights, and of components of a vector.
        weights: The parameters that it is about, by name.

    Raises:
        BadInput: unknown coordinates.
        NotApplicable: the model has no parameters of that scope, or in these coordinates none that moves.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        scope: Scope = "all",
        coordinates: Coordinates = "raw",
        batch: int = 250,
        kept: int | None = None,
        loss: Callable[[Tensor, Tensor], Tensor] = each_cross_entropy,
    ) -> None:
        if coordinates not in get_args(Coordinates):
            raise BadInput(f"coordinates {coordinates!r} is not one of {', '.join(get_args(Coordinates))}")
        self.model, self.x, self.y, self.loss = model, x, y, loss
        self.weights: Params = select(model, scope)
        self.size = sum(value.numel() for value in self.weights.values())
        self._scale = None if coordinates == "raw" else _units(self.weights, coordinates)
        if coordinates != "raw" and self._scale is not None and not bool(self._scale.any()):
            raise nothing_moves(model, coordinates)
        self._rows = [slice(first, min(first + batch, len(x))) for first in range(0, len(x), batch)]
        self._kept = len(self._rows) if kept is None else kept
        self._graphs: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def like(self) -> Tensor:
        """Return a vector of zeros, (D,)."""
        return next(iter(self.weights.values())).new_zeros(self.size)

    def __call__(self, v: Tensor) -> Tensor:
        """Return H v, (D,), for v of (D,) (D H D v in relative coordinates), nats per unit of the coordinates squared.

        Raises:
            Diverged: the loss is not finite.
        """
        along = list(self.params(v).values())

        def product(slopes: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
            pairs = [(slope, part) for slope, part in zip(slopes, along, strict=True) if slope.requires_grad]
            if not pairs:
                return [torch.zeros_like(leaf) for leaf in leaves]
            outputs, directions = zip(*pairs, strict=True)
            found = torch.autograd.grad(outputs, leaves, directions, retain_graph=True, materialize_grads=True)
            return list(found)

        return self._total(product)

    def value(self) -> float:
        """Return the mean loss, nats.

        Raises:
            Diverged: the loss is not finite.
        """
        with exact_products(self.x.device), torch.autocast(self.x.device.type, enabled=False), torch.no_grad():
            return sum(float(self._losses(rows, {}).double().sum()) for rows in self._rows) / len(self.x)

    def gradient(self) -> Tensor:
        """Return the gradient of the mean loss, (D,), in the coordinates.

        Raises:
            Diverged: the loss is not finite.
        """
        return self._total(lambda slopes, _: [slope.detach() for slope in slopes])

    def params(self, v: Tensor) -> Params:
        """Return the move of the weights that a vector, (D,), stands for: v itself, or D v in relative coordinates."""
        moved = v if self._scale is None else v * self._scale
        sizes = [value.numel() for value in self.weights.values()]
        parts = zip(self.weights.items(), moved.split(sizes), strict=True)
        return {name: part.view(value.shape) for (name, value), part in parts}

    def _total(self, work: Callable[[list[Tensor], list[Tensor]], list[Tensor]]) -> Tensor:
        """Return the sum over the batches of what ``work`` makes of slopes and weights, as a vector."""
        total: list[Tensor] = []
        with exact_products(self.x.device), torch.autocast(self.x.device.type, enabled=False):
            for number, rows in enumerate(self._rows):
                slopes, leaves = self._graphs.get(number) or self._graph(rows)
                if number < self._kept:
                    self._graphs[number] = slopes, leaves
                found = work(slopes, leaves)
                del slopes
                total = found if not total else list(torch._foreach_add(total, found))
        flat = torch.cat([part.reshape(-1) for part in total])
        return flat if self._scale is None else flat * self._scale

    def _graph(self, rows: slice) -> tuple[list[Tensor], list[Tensor]]:
        """Return a batch's part of the gradient, with its graph, and the weights that the graph starts from."""
        leaves = {name: value.detach().requires_grad_() for name, value in self.weights.items()}
        wanted = list(leaves.values())
        with torch.enable_grad():
            loss = self._losses(rows, leaves).sum() / len(self.x)
            slopes = torch.autograd.grad(loss, wanted, create_graph=True, materialize_grads=True)
        return list(slopes), wanted

    def _losses(self, rows: slice, leaves: Params) -> Tensor:
        """Return the losses of some examples, with ``leaves`` in the place of the model's own weights."""
        fixed = {name: value.detach() for name, value in self.model.named_parameters()}
        with modes.evaluating(self.model), modes.frozen_statistics(self.model), _twice(self.model):
            logits = torch.func.functional_call(self.model, {**fixed, **leaves}, (self.x[rows],))
            losses = self.loss(logits, self.y[rows])
        if not bool(torch.isfinite(losses).all()):
            raise Diverged(f"the loss is not finite for {int((~torch.isfinite(losses)).sum())} of {len(losses)} inputs")
        return losses


def hessian(
    subject: Subject, x: Tensor | None = None, *, scope: Scope = "all", coordinates: Coordinates = "raw"
) -> HessianOperator:
    """Return the Hessian of a subject's mean cross-entropy, at as many examples at once as memory holds.

    Args:
        subject: What is looked at.
        x: (N, C, H, W), its examples as they are held, for example attacked; None for the clean ones.
        scope: Which parameters.
        coordinates: "raw", or relative to each "layer" or "filter".

    Raises:
        BadInput: unknown coordinates, or too little memory for a single example.
        NotApplicable: no parameters of that scope, or in these coordinates none that moves.
    """
    select(subject.model, scope)  # refuses a model without such parameters, of which there is no graph
    x = subject.x if x is None else x
    with modes.evaluating(subject.model):
        each = _GRAPH * bytes_per_example(subject.model, x)
    # In a process of a pool, of which there may be one a core. Half of it is for the vectors.
    sharing = 1 if multiprocessing.parent_process() is None or world() > 1 else os.cpu_count() or 1
    room = available(subject.runtime, sharing=sharing) / 2
    most = min(subject.batch, len(x), subject.parts.size if subject.parts else len(x))
    batch = fitting(most, each, room)
    return HessianOperator(
        subject.model,
        x,
        subject.y,
        scope=scope,
        coordinates=coordinates,
        batch=batch,
        kept=max(0, int(room / (each * batch)) - 1),  # one more is made for those that are not kept
    )


def worst_inputs(subject: Subject, attack: Attack, *tags: str | int) -> Tensor:
    """Return what an attack makes of each example, (N, C, H, W), or the example itself where its loss is higher.

    So the mean loss over them is the robust loss, of which the clean input is a part too.

    Args:
        subject: What is looked at, at its model's present weights.
        attack: Run on the fast view; judged by the model itself in its own precision.
        *tags: Purpose of the random numbers.

    Raises:
        Diverged: a loss is not finite.
    """
    worst = subject.x.clone()
    with subject.view as searched:
        for rows, count in batches(subject):
            clean, _ = judge(subject.model, subject.x[rows], subject.y[rows], parts=subject.parts)
            found = search(subject, searched, attack, rows, *tags)
            chosen = rows[:count][(found.loss > clean)[:count]]
            worst[chosen] = found.x_adv[:count][(found.loss > clean)[:count]]
    return worst


def _units(weights: Params, coordinates: Coordinates) -> Tensor:
    """Return the norm of the layer or filter that each component belongs to, (D,)."""
    if coordinates == "layer":
        return torch.cat([value.norm().expand(value.numel()) for value in weights.values()])
    return torch.cat(
        [
            filter_norms(value).expand_as(value).reshape(-1) if value.ndim > 1 else torch.zeros_like(value)
            for value in weights.values()
        ]
    )


@contextmanager
def _twice(model: nn.Module) -> Iterator[None]:
    """Run the block's forwards as what is best differentiated twice: fused attention and compiled code cannot be."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(Twice())
        yield
