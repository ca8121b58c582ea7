"""Which neurons of a network may change places: found by watching one forward, operation by operation.

A *group* is a set of neurons (channels or features) whose order is free: permuting it in every parameter and buffer
that knows the order leaves the function as it is. Convolutions, linear modules and BatchNorm are known by rule. Of
every other operation it is tried out whether permuted inputs give permuted outputs; where they do not, the order of
the neurons that come in is fixed. Neurons that are added to each other, as along a residual stream, are one group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from robustscape.modes import evaluating
from robustscape.streams import Streams
from robustscape.types import NotApplicable

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
_LOOK = 4  # images that the forward is watched on
_CLOSE = 1e-4  # of the largest entry: rounding of sums taken in another order lies below, anything else above


class Use(NamedTuple):
    """An axis of a parameter or buffer that has ``block`` entries in a row for each neuron of a group."""

    name: str
    axis: int
    block: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """Neurons that may change places among themselves.

    Attributes:
        size: How many.
        uses: Where their order is known; at least one.
    """

    size: int
    uses: tuple[Use, ...]


def groups_of(model: nn.Module, x: Tensor) -> tuple[Group, ...]:
    """Return the groups of a model in the order in which a forward meets them; leaves no trace.

    Args:
        model: The model, run in eval mode.
        x: (N, C, H, W), images; the first few are used.

    Raises:
        NotApplicable: there is none.
    """
    watch = _Watch(model)
    with torch.no_grad(), evaluating(model), watch:
        logits = model(x[:_LOOK])
    watch.fix(watch.labels_in(logits))
    found = watch.groups()
    if not found:
        raise NotApplicable(
            f"no neurons of {type(model).__name__} were found that may change places: only those between its own "
            "convolutions, linear modules and BatchNorm are, so it cannot be aligned"
        )
    return found


def expanded(order: Tensor, block: int) -> Tensor:
    """Return the order of entries, (size * block,), that an order of neurons, (size,), means for blocks of entries."""
    return (order[:, None] * block + torch.arange(block, device=order.device)).flatten()


class _Space:
    """The order of some neurons: of one size, one with others once they meet, free unless fixed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fixed = size < 2
        self.parent: _Space | None = None

    def root(self) -> _Space:
        space = self
        while space.parent is not None:
            space = space.parent
        return space

    def meet(self, other: _Space) -> None:
        mine, its = self.root(), other.root()
        if mine is its:
            return
        mine.fixed = mine.fixed or its.fixed or mine.size != its.size
        its.parent = mine


class _Label(NamedTuple):
    """A tensor's axis ``dim`` has ``block`` entries in a row for each neuron of ``space``."""

    space: _Space
    dim: int
    block: int


class _Watch(TorchFunctionMode):
    """Follows the neurons through a forward. A tensor without a label has no neurons whose order could be free."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
        self.sizes = {name: t.shape for name, t in [*model.named_parameters(), *model.named_buffers()]}
        self.labels: dict[int, tuple[Tensor, _Label]] = {}  # the tensor is held, so that its id stays its own
        self.made: dict[int, Tensor] = {}  # made of parameters and buffers alone
        self.uses: dict[tuple[str, int], tuple[_Space, int]] = {}
        self.elsewhere: set[str] = set()  # names that operations without a rule read

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out one operation and label what comes out; the mode is off inside."""
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS:
            return self._convolution(func, args, kwargs)
        if func is F.linear:
            return self._linear(func, args, kwargs)
        if func is F.batch_norm:
            return self._batch_norm(func, args, kwargs)
        return self._other(func, args, kwargs)

    def labels_in(self, value: Any) -> list[_Label]:
        """Return the labels of the tensors in some arguments or results."""
        return [self.labels[id(t)][1] for t in tree_leaves(value) if id(t) in self.labels]

    def fix(self, labels: Sequence[_Label]) -> None:
        """Let the order of neurons stay as it is."""
        for label in labels:
            label.space.root().fixed = True

    def groups(self) -> tuple[Group, ...]:
        """Return what may change places, once the forward is over."""
        for (name, _), (space, _) in self.uses.items():
            space.root().fixed |= name in self.elsewhere
        found: dict[int, tuple[int, list[Use]]] = {}
        for (name, axis), (space, block) in self.uses.items():
            root = space.root()
            if not root.fixed:
                found.setdefault(id(root), (root.size, []))[1].append(Use(name, axis, block))
        return tuple(Group(size=size, uses=tuple(uses)) for size, uses in found.values())

    def _set(self, tensor: Tensor, label: _Label | None) -> Tensor:
        self.labels.pop(id(tensor), None)
        if label is not None:
            self.labels[id(tensor)] = (tensor, label)
        return tensor

    def _use(self, tensor: Tensor, axis: int, space: _Space, block: int = 1) -> None:
        """Note that an axis of a parameter has an order; one used twice has one order."""
        name = self.names[id(tensor)]
        fits = self.sizes[name][axis] == space.size * block
        known, known_block = self.uses.setdefault((name, axis), (space, block))
        known.meet(space)
        if known_block != block or not fits:
            known.root().fixed = True

    def _known(self, *tensors: Tensor | None) -> bool:
        return all(t is None or id(t) in self.names for t in tensors)

    def _convolution(self, func: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
        x, weight, bias, groups = (_argument(args, kwargs, *place) for place in _CONVOLUTION)
        groups = 1 if groups is None else groups
        out, labels = func(*args, **kwargs), self.labels_in(x)
        label = labels[0] if labels and labels[0].dim == 1 and x.ndim == weight.ndim else None
        depthwise = groups == weight.shape[0] == x.shape[1] and weight.shape[1] == 1
        if not self._known(weight, bias) or x.ndim != weight.ndim or (groups > 1 and not (depthwise and label)):
            self.fix(labels)
            return self._set(out, None)
        if label is None:
            self.fix(labels)
        if groups > 1 and label is not None:
            space, block = label.space, label.block
        else:
            if label is not None:
                self._use(weight, 1, label.space, label.block)
            space, block = _Space(weight.shape[0]), 1
        for tensor in (weight, bias):
            if tensor is not None:
                self._use(tensor, 0, space, block)
        return self._set(out, _Label(space, 1, block))

    def _linear(self, func: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
        x, weight, bias = (_argument(args, kwargs, *place) for place in _LINEAR)
        out, labels = func(*args, **kwargs), self.labels_in(x)
        label = labels[0] if labels and labels[0].dim == x.ndim - 1 else None
        if label is None or not self._known(weight, bias):
            self.fix(labels)
        if not self._known(weight, bias):
            return self._set(out, None)
        if label is not None:
            self._use(weight, 1, label.space, label.block)
        space = _Space(weight.shape[0])
        for tensor in (weight, bias):
            if tensor is not None:
                self._use(tensor, 0, space)
        return self._set(out, _Label(space, out.ndim - 1, 1))

    def _batch_norm(self, func: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
        x, *tensors = (_argument(args, kwargs, *place) for place in _BATCH_NORM)
        out, labels = func(*args, **kwargs), self.labels_in(x)
        if not labels or labels[0].dim != 1 or not self._known(*tensors):
            self.fix(labels)
            return self._set(out, None)
        for tensor in tensors:
            if tensor is not None:
                self._use(tensor, 0, labels[0].space, labels[0].block)
        return self._set(out, labels[0])

    def _other(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Try out whether an operation minds the order of the neurons that come in."""
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        labels = self.labels_in(inputs)
        given = [t for t in inputs if id(t) in self.names or id(t) in self.made]
        fits = bool(labels) and all(label.space.size == labels[0].space.size for label in labels)
        fits = fits and all(t.numel() == 1 for t in given)
        order = Streams(0, ("groups",)).order(labels[0].space.size) if fits else torch.empty(0)
        moved = tree_map(lambda t: self._moved(t, order), (args, kwargs)) if fits else None
        out = func(*args, **kwargs)
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not results or self._follows(func, args, kwargs, inputs, out):
            return out
        self.elsewhere |= {self.names[id(t)] for t in given if id(t) in self.names}
        if not labels:
            for t in results:
                self._set(t, None)
                if given and len(given) == len(inputs):
                    self.made[id(t)] = t
            return out
        again = [t for t in tree_leaves(func(*moved[0], **moved[1])) if isinstance(t, Tensor)] if moved else []
        for label in labels[1:]:
            labels[0].space.meet(label.space)
        found = (
            [_label(old, new, order, labels[0].space) for old, new in zip(results, again, strict=True)] if fits else []
        )
        if not fits or "lost" in found:
            self.fix(labels)
        for t, label in zip(results, found or [None] * len(results), strict=True):
            self._set(t, label if isinstance(label, _Label) else None)
        return out

    def _follows(self, func: Callable[..., Any], args: Any, kwargs: Any, inputs: Sequence[Tensor], out: Any) -> bool:
        """Take what is made of one vector of parameters, entry by entry, for that vector: 1 + weight, for example."""
        name = self.names.get(id(inputs[0])) if len(inputs) == 1 else None
        if name is None or not isinstance(out, Tensor) or inputs[0].ndim != 1 or out.shape != inputs[0].shape:
            return False
        order = Streams(0, ("groups",)).order(len(out)).to(out.device)
        moved = tree_map(lambda t: t[order] if isinstance(t, Tensor) else t, (args, kwargs))
        if not _close(out[order], func(*moved[0], **moved[1])):
            return False
        self.names[id(out)], self.made[id(out)] = name, out
        return True

    def _moved(self, value: Any, order: Tensor) -> Any:
        """Return a copy of a tensor with its neurons in another order; anything else as it is."""
        if not isinstance(value, Tensor):
            return value
        label = self.labels.get(id(value), (None, None))[1]
        if label is None:
            return value.clone()
        return value.index_select(label.dim, expanded(order, label.block).to(value.device))


def _label(out: Tensor, again: Tensor, order: Tensor, space: _Space) -> _Label | str:
    """Return the label of a result that follows the order, "none" for one that does not depend on it, else "lost"."""
    if out.shape != again.shape:
        return "lost"
    for dim in range(out.ndim):
        block, rest = divmod(out.shape[dim], space.size)
        if block and not rest and _close(out.index_select(dim, expanded(order, block).to(out.device)), again):
            return _Label(space, dim, block)
    return "none" if _close(out, again) else "lost"


def _close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point():
        return torch.equal(a, b)
    return not a.numel() or bool((a - b).abs().max() <= _CLOSE * a.abs().max())


_CONVOLUTION = ((0, "input"), (1, "weight"), (2, "bias"), (6, "groups"))
_LINEAR = ((0, "input"), (1, "weight"), (2, "bias"))
_BATCH_NORM = ((0, "input"), (1, "running_mean"), (2, "running_var"), (3, "weight"), (4, "bias"))


def _argument(args: Sequence[Any], kwargs: dict[str, Any], place: int, name: str) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)
