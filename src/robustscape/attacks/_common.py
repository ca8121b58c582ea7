"""What several attacks of the room share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscape.types import BadInput, Diverged, Threat


def check(x: Tensor, y: Tensor) -> None:
    """Refuse what no attack can work on.

    Raises:
        BadInput: a dtype other than float32 and float64, or lengths that differ.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise BadInput(f"attacks need float32 or float64 inputs, not {str(x.dtype).removeprefix('torch.')}")
    if len(x) != len(y):
        raise BadInput(f"{len(x)} inputs came with {len(y)} labels")


def check_labels(logits: Tensor, y: Tensor) -> None:
    """Refuse labels that are none of the model's classes.

    Raises:
        BadInput: soft labels, labels out of range, or outputs that are not (N, K).
        Diverged: logits that are not finite.
    """
    if logits.ndim != 2 or len(logits) != len(y):
        raise BadInput(f"the model gave outputs of shape {tuple(logits.shape)} for {len(y)} inputs; (N, K) is meant")
    if y.ndim != 1 or y.is_floating_point():
        raise BadInput(f"this attack needs one label for each input, int64, not {tuple(y.shape)} of {y.dtype}")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise BadInput(f"labels lie in [{int(y.min())}, {int(y.max())}], but the model has {logits.shape[1]} outputs")
    if not bool(torch.isfinite(logits).all()):
        raise Diverged("the model's logits are not finite for clean inputs")


def told(threat: Threat) -> str:
    """Return a threat model in words, for captions: "linf 8/255"."""
    return f"{threat.norm} {fraction(threat.eps)}"


class Health:
    """Whether every loss and gradient of a search was finite, asked once at its end."""

    def __init__(self, x: Tensor) -> None:
        self.sum = torch.zeros((), dtype=x.dtype, device=x.device)

    def watch(self, loss: Tensor, slope: Tensor) -> None:
        """Take note of one step's losses and gradients: zero times what is not finite is NaN."""
        self.sum = self.sum + 0 * (loss.sum() + slope.sum())

    def passed(self, x_adv: Tensor) -> Tensor:
        """Return x_adv.

        Raises:
            Diverged: a loss or a gradient was not finite.
        """
        if not bool(torch.isfinite(self.sum)):
            raise Diverged("the model's loss, or its gradient with respect to the inputs, became NaN under attack")
        return x_adv


def labels(y: Tensor) -> Tensor:
    """Return the label of each example, (N,), also of soft targets (N, K)."""
    return y if y.ndim == 1 else y.argmax(dim=1)


def fraction(value: float) -> str:
    """Return a length in pixel units as people write it: "8/255" where it is a multiple of 1/255."""
    whole = value * 255
    near = round(whole, 4)
    if near == int(near) and near not in (0, 255) and f"{value:.4g}" != f"{value:.2g}":
        return f"{int(near)}/255"
    return f"{value:.4g}"


class _Recorded(nn.Module):
    """The model, remembering its last output, so that a loss and a prediction cost one forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.logits: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return and remember the logits."""
        logits = self.logits = self.model(x)
        return logits


def gradient(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    x_adv: Tensor,
    target: Tensor,
    *,
    backward: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss (N,), logits (N, K) and the loss's gradient to the inputs (N, ...), all detached.

    The gradient is of the sum over examples, so each row is its own example's. No ``.grad`` is written.
    Without ``backward`` the third is x_adv itself.
    """
    recorded = _Recorded(model)
    if not backward:
        with torch.no_grad():
            value = loss(recorded, x_adv, target)
        assert recorded.logits is not None
        return value, recorded.logits, x_adv
    with torch.enable_grad():
        x_adv = x_adv.detach().requires_grad_()
        value = loss(recorded, x_adv, target)
        (slope,) = torch.autograd.grad(value.sum(), x_adv)
    assert recorded.logits is not None
    return value.detach(), recorded.logits.detach(), slope
