"""Several narrow networks of one architecture as one module: one pass in place of one after the other.

A narrow network's pass costs little but the calls of its operations. Where it is made of matrices and functions of
single numbers alone, the same calls serve many: matrices are stacked and multiplied as a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from robustscape.runtime.settings import TRUTH, Runtime
from robustscape.streams import Apart

Point = Mapping[str, Tensor]
"""Parameter name to tensor: ``Params``, or a model's own parameters."""

_ELEMENTWISE = (
    nn.Identity, nn.Dropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Softplus, nn.Softsign, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Tanhshrink, nn.Softshrink, nn.Hardshrink,
    nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Threshold,
)  # fmt: skip
_OWN = "robustscape.models."
_PIXELS = 2**19  # of all inputs of a pass on the CPU: 2 MiB in float32, beyond which it waits for memory, not for calls
_PIXELS_CUDA = 2**25
_FEWEST = 4  # networks in a pass: where no more fit, the calls are a small part of the time
_WEIGHTS = 2**22  # of all networks: where the matrices are larger, multiplying them takes the time
_KEPT = 2**25 - 2**14  # bytes of the largest block that glibc keeps for itself once it was given back


def suited(model: nn.Module) -> bool:
    """Return whether several such networks can be one module: linear layers, elementwise functions, flattening.

    These may stand in ``nn.Sequential`` and in the networks of this library, whose normalisation of pixels is
    allowed too. A hook or a forward of its own may do anything, so such a model is not suited.
    """
    modules = list(model.modules())
    return any(type(module) is nn.Linear for module in modules) and all(map(_fits, modules))


def _fits(module: nn.Module) -> bool:
    kind = type(module)
    if "forward" in vars(module) or any(value for name, value in vars(module).items() if name.endswith("_hooks")):
        return False
    if kind is nn.Linear:
        return True
    if kind is nn.Flatten:
        return vars(module)["start_dim"] == 1
    known = kind in _ELEMENTWISE or kind is nn.Sequential or kind.__module__.startswith(_OWN)
    return known and next(module.parameters(recurse=False), None) is None


def alike(models: Sequence[nn.Module]) -> bool:
    """Return whether the models differ in nothing but their weights, and are suited."""

    def shape(model: nn.Module) -> object:
        return str(model), [(name, w.shape, w.dtype, w.device) for name, w in model.named_parameters()]

    def constants(model: nn.Module) -> list[Tensor]:
        return list(model.buffers())

    first = models[0]
    return suited(first) and all(
        type(model) is type(first)
        and suited(model)
        and shape(model) == shape(first)
        and all(map(torch.equal, constants(model), constants(first)))
        for model in models[1:]
    )


def at_once(model: nn.Module, x: Tensor, runtime: Runtime, most: int) -> int:
    """Return how many networks like the model are best run in one pass; 1: one after the other is no slower.

    Args:
        model: One of them.
        x: (N, C, H, W), a batch that each of them is given.
        runtime: How the machine is used; what is compiled, or asked for in parts of a batch, is run alone.
        most: How many there are.
    """
    if runtime.compile == "yes" or 0 < runtime.micro_batch < len(x) or not suited(model):
        return 1
    pixels = _PIXELS_CUDA if x.device.type == "cuda" else _PIXELS
    weights = sum(parameter.numel() for parameter in model.parameters())
    fitting = min(pixels // max(1, x.numel()), _WEIGHTS // weights)
    return min(most, fitting) if fitting >= _FEWEST else 1


class Together(nn.Module):
    """S networks of one architecture as one module, in eval mode, differentiable to inputs.

    Maps (S * N, C, H, W), the rows of each network following one another, to (S * N, K). It holds the weights that
    it was made with, in copies of their own.

    Args:
        model: Gives the architecture; is not changed.
        points: The weights of each network: parameter name to tensor. The model's own for names left out.
        rows: N. Another number of rows is refused, since it is not known whose they are.
        runtime: Gives the precision of products of float32 weights; by default float32.
    """

    def __init__(self, model: nn.Module, points: Sequence[Point], *, rows: int, runtime: Runtime = TRUTH) -> None:
        super().__init__()
        assert suited(model), "the model is not made of linear layers, elementwise functions and flattening alone"
        weights = dict(model.named_parameters())
        self.count, self.rows = len(points), rows
        self.kind = next(iter(weights.values())).device.type
        self.dtype = next(iter(weights.values())).dtype
        self.low = self.dtype if self.dtype == torch.float64 else runtime.dtype()
        self.model = _stacked(model, weights, points, self.low)
        _keep_blocks()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of x, (S * N, K), in x's dtype.

        Raises:
            Apart: there are not S * N rows: some were left out or repeated.
        """
        if len(x) != self.count * self.rows:
            raise Apart(f"{self.count} networks were to be given {self.rows} inputs each, and there are {len(x)}")
        if self.low == self.dtype:
            return self.model(x)
        with torch.autocast(self.kind, dtype=self.low, cache_enabled=False):
            return self.model(x).float()


class _Linears:
    """The forward of a linear layer for S of them: each has its own rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight.mT  # (S, inputs, outputs)
        self.bias = None if bias is None else bias[:, None]  # (S, 1, outputs)

    def __call__(self, input: Tensor) -> Tensor:
        count, inputs, outputs = self.weight.shape
        x = input.reshape(count, -1, inputs)
        z = torch.bmm(x, self.weight) if self.bias is None else torch.baddbmm(self.bias, x, self.weight)
        return z.view(*input.shape[:-1], outputs)


def _stacked(model: nn.Module, weights: Point, points: Sequence[Point], dtype: torch.dtype) -> nn.Module:
    """Return the model with every linear layer's forward replaced by that of all networks."""
    names = {id(weight): name for name, weight in weights.items()}

    def stack(weight: Tensor) -> Tensor:
        name = names[id(weight)]
        return torch.stack([point.get(name, weight).detach() for point in points]).to(dtype)

    # The modules alone are copied: tensors are found in the memo and shared.
    derived = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}).eval()
    for module in derived.modules():
        if isinstance(module, nn.Linear):
            module.forward = _Linears(stack(module.weight), None if module.bias is None else stack(module.bias))
    return derived


def _keep_blocks() -> None:
    """Let malloc keep freed blocks of some MiB, which a pass asks for again at once.

    glibc does so for sizes that it has seen given back; otherwise the system clears every page of them anew, which
    takes longer than the pass. The block asked for here is never written, so it takes no memory.
    """
    torch.empty(_KEPT, dtype=torch.uint8)
