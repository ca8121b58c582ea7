"""Aligning the neurons of one network with those of another, which leaves its function as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from robustscape.evaluation.judging import predicted
from robustscape.landscape._groups import Group, expanded, groups_of
from robustscape.streams import Streams
from robustscape.types import NotApplicable, Params

_SWEEPS = 100
_CLOSE = 1e-4  # of the largest logit: permuting changes the order of sums, and with it float32's rounding


def aligned(model: nn.Module, other: Params, x: Tensor) -> Params:
    """Return another network of the model's architecture with its neurons in the order that fits the model's.

    Weight matching (Ainsworth 2023, https://arxiv.org/abs/2209.04836, section 3.2, algorithm 1): of all orders of
    the neurons of each group those that make the inner product of the two networks' parameters large, by coordinate
    descent over the groups; each step is a linear assignment problem, solved exactly.

    Args:
        model: The network that the other is aligned with, at its present weights. Left without a trace.
        other: Its parameters and buffers by name, for all those of the model.
        x: (N, C, H, W), images, which the network's groups of neurons are found on and the result is checked on.

    Returns:
        ``other`` permuted, tensors of its own.

    Raises:
        NotApplicable: no neurons of this architecture are known to be free, or permuting them changes its function.

    Deviations:
        Which neurons belong together is found by watching a forward (``_groups``), not written down for each
        architecture. Groups are visited in the order of the forward and not at random, once from the order as it
        is and once from one found layer by layer from the input, which finds a permuted copy exactly; the
        better of the two is kept. Biases and normalisation parameters are matched too, running statistics are not,
        but move along.
    """
    groups = groups_of(model, x)
    check_free(model, other, groups, x)
    return permuted(other, groups, match(dict(model.named_parameters()), other, groups))


def shuffled(model: nn.Module, x: Tensor, rng: Streams) -> Params:
    """Return parameters and buffers of the model with all free neurons in a random order: the same function.

    Args:
        model: The network; left without a trace.
        x: (N, C, H, W), images, which the network's groups of neurons are found on.
        rng: Random numbers of the order.

    Raises:
        NotApplicable: no neurons of this architecture are known to be free, or permuting them changes its function.
    """
    groups = groups_of(model, x)
    state = {name: t.detach() for name, t in [*model.named_parameters(), *model.named_buffers()]}
    check_free(model, state, groups, x)
    return permuted(state, groups, [rng.tag(number).order(group.size) for number, group in enumerate(groups)])


def check_free(model: nn.Module, state: Params, groups: Sequence[Group], x: Tensor) -> None:
    """Refuse groups that are not free: permuted at random they must leave the logits of x, (N, C, H, W), as they are.

    Raises:
        NotApplicable: they do not.
    """
    orders = [Streams(0, ("check", number)).order(group.size) for number, group in enumerate(groups)]
    logits, again = (predicted(Placed(model, s), x[:32]) for s in (state, permuted(state, groups, orders)))
    if not float((logits - again).abs().max()) <= _CLOSE * float(logits.abs().max()):
        raise NotApplicable(
            f"which neurons of {type(model).__name__} may change places could not be found: permuting those that "
            "seemed to be free changes its outputs, so it cannot be aligned"
        )


class Placed(nn.Module):
    """A model with other parameters and buffers than its own, which stay as they are.

    Args:
        model: The model; shared, not copied.
        state: Parameters and buffers by name, for all of the model's.
    """

    def __init__(self, model: nn.Module, state: Params) -> None:
        super().__init__()
        self.model = model
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x, (N, K)."""
        return functional_call(self.model, self.state, (x,))


def permuted(state: Params, groups: Sequence[Group], orders: Sequence[Tensor]) -> Params:
    """Return parameters and buffers with the neurons of each group in another order.

    Args:
        state: Parameters and buffers by name.
        groups: The groups.
        orders: For each group (size,), int64: the neuron that comes to each place.
    """
    made = {name: t.clone() for name, t in state.items()}
    for group, order in zip(groups, orders, strict=True):
        for name, axis, block in group.uses:
            made[name] = made[name].index_select(axis, expanded(order, block).to(made[name].device))
    return made


def match(a: Params, b: Params, groups: Sequence[Group]) -> list[Tensor]:
    """Return the order of each group, (size,), int64, on the CPU, that brings b's neurons to a's; see ``aligned``.

    Args:
        a: Parameters that are matched.
        b: Parameters that are permuted, of the same names and more.
        groups: The groups.
    """
    matching = _Matching(a, b, groups)
    same = [torch.arange(group.size) for group in groups]
    found = [matching.descended(start) for start in (same, matching.layer_by_layer(same))]
    return max(found, key=matching.product)


class _Matching:
    """Two networks' parameters in float64 on the CPU, and the groups of neurons that each axis belongs to."""

    def __init__(self, a: Params, b: Params, groups: Sequence[Group]) -> None:
        names = dict.fromkeys(use.name for group in groups for use in group.uses if use.name in a)
        self.a, self.b = ({name: s[name].detach().double().cpu() for name in names} for s in (a, b))
        self.groups = groups
        self.axes: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in names}
        for number, group in enumerate(groups):
            for name, axis, block in group.uses:
                if name in self.axes:
                    self.axes[name][axis] = (number, block)

    def product(self, orders: Sequence[Tensor]) -> float:
        """Return the inner product of a and the permuted b."""
        return sum(float((self.a[name] * self._placed(name, orders)).sum()) for name in self.a)

    def layer_by_layer(self, orders: Sequence[Tensor]) -> list[Tensor]:
        """Return orders found one after the other, each from the parameters whose other axes are settled."""
        found = list(orders)
        for number in range(len(self.groups)):
            found[number] = self._best(self._gain(number, found, settled=number))
        return found

    def descended(self, orders: Sequence[Tensor]) -> list[Tensor]:
        """Return orders after sweeps over the groups, until none of them gains any more."""
        found = list(orders)
        for _ in range(_SWEEPS):
            before = self.product(found)
            for number in range(len(self.groups)):
                trial = [*found]
                trial[number] = self._best(self._gain(number, found))
                if self.product(trial) > self.product(found):
                    found = trial
            if not self.product(found) > before + 1e-12 * abs(before):
                break
        return found

    def _best(self, gain: Tensor) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        return torch.as_tensor(linear_sum_assignment(gain.numpy(), maximize=True)[1])

    def _gain(self, number: int, orders: Sequence[Tensor], settled: int | None = None) -> Tensor:
        """Return (size, size): what it adds to the inner product that b's neuron j comes to place i."""
        size = self.groups[number].size
        gain = torch.zeros(size, size, dtype=torch.float64)
        for name, axis, _ in self.groups[number].uses:
            others = [other for place, (other, _) in self.axes.get(name, {}).items() if place != axis]
            if name not in self.axes or (settled is not None and any(other >= settled for other in others)):
                continue
            rows, columns = (
                t.movedim(axis, 0).reshape(size, -1) for t in (self.a[name], self._placed(name, orders, axis))
            )
            gain += rows @ columns.T
        return gain

    def _placed(self, name: str, orders: Sequence[Tensor], leave: int | None = None) -> Tensor:
        """Return a parameter of b permuted along all its axes but one."""
        value = self.b[name]
        for axis, (number, block) in self.axes[name].items():
            if axis != leave:
                value = value.index_select(axis, expanded(orders[number], block))
        return value
