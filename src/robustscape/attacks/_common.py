"""What several attacks of the room share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustscape.runtime.memory import out_of_memory
from robustscape.types import BadInput, Diverged, Threat

_ROUNDING = 1e-6  # how far outside [0, 1] a pixel may be


def check(x: Tensor, y: Tensor) -> None:
    """Refuse what no attack can work on.

    Raises:
        BadInput: a dtype other than float32 and float64, lengths that differ, a label without a batch, or inference
            mode.
    """
    if torch.is_inference_mode_enabled() or x.is_inference():
        raise BadInput(
            "attacks take gradients, which torch.inference_mode() forbids, also of tensors made there; "
            "did you mean torch.no_grad()?"
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise BadInput(f"attacks need float32 or float64 inputs, not {str(x.dtype).removeprefix('torch.')}")
    if y.ndim == 0:
        raise BadInput("attacks take batches, (N, C, H, W) and (N,), not one label; did you mean x[None] and y[None]?")
    if len(x) != len(y):
        raise BadInput(f"{len(x)} inputs came with {len(y)} labels")


def check_pixels(x: Tensor) -> None:
    """Refuse pixels outside [0, 1]: clamped to it they would leave the ball. NaN is left to the model's logits.

    Raises:
        BadInput: pixels outside [0, 1] by more than rounding.
    """
    if x.numel() and (float(x.min()) < -_ROUNDING or float(x.max()) > 1 + _ROUNDING):
        raise BadInput(
            f"pixels lie in [{float(x.min()):.3g}, {float(x.max()):.3g}], not in [0, 1]; "
            "normalisation belongs into the model"
        )


def check_labels(logits: Tensor, y: Tensor) -> None:
    """Refuse labels that are none of the model's classes.

    Raises:
        BadInput: soft labels, labels out of range, or outputs that are not (N, K), K at least 2.
        Diverged: logits that are not finite.
    """
    if logits.ndim != 2 or len(logits) != len(y):
        raise BadInput(f"the model gave outputs of shape {tuple(logits.shape)} for {len(y)} inputs; (N, K) is meant")
    if len(y):
        check_classes(logits)
    if y.ndim != 1 or y.dtype != torch.int64:
        meant = "; did you mean y.long()?" if y.ndim == 1 and not y.is_floating_point() else ""
        raise BadInput(f"this attack needs one label for each input, int64, not {tuple(y.shape)} of {y.dtype}{meant}")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < logits.shape[1]:
        raise BadInput(f"labels lie in [{int(y.min())}, {int(y.max())}], but the model has {logits.shape[1]} outputs")
    if not bool(torch.isfinite(logits).all()):
        raise Diverged("the model's logits are not finite for clean inputs")


def check_classes(logits: Tensor) -> None:
    """Refuse logits, (N, K), of a single class.

    Raises:
        BadInput: K is below 2.
    """
    if logits.shape[-1] < 2:
        raise BadInput(
            f"an attack needs a model of at least 2 outputs, not {logits.shape[-1]}: there is no other class to go for"
        )


def explain(error: Exception, logits: Tensor | None, y: Tensor) -> None:
    """Refuse the labels or outputs that a loss has failed on; return where it is neither.

    Asked after the error, because to look at labels beforehand waits for the device.

    Args:
        error: What the loss has raised.
        logits: What the model gave, None for nothing.
        y: (N,), labels, or what was given as such.

    Raises:
        BadInput: labels or outputs that do not fit.
    """
    if logits is not None and not out_of_memory(error):
        check_labels(logits, y)


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

    Raises:
        BadInput: labels or outputs that the loss cannot be of.
    """
    recorded = _Recorded(model)
    if not backward:
        with torch.no_grad():
            value = _lost(loss, recorded, x_adv, target)
        assert recorded.logits is not None
        return value, recorded.logits, x_adv
    with torch.enable_grad():
        x_adv = x_adv.detach().requires_grad_()
        value = _lost(loss, recorded, x_adv, target)
        (slope,) = torch.autograd.grad(value.sum(), x_adv)
    assert recorded.logits is not None
    return value.detach(), recorded.logits.detach(), slope


def _lost(
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor], recorded: _Recorded, x_adv: Tensor, target: Tensor
) -> Tensor:
    """Return the loss of each example, (N,)."""
    try:
        value = loss(recorded, x_adv, target)
    except (IndexError, RuntimeError) as error:
        explain(error, recorded.logits, target)
        raise
    assert recorded.logits is not None
    check_classes(recorded.logits)
    return value
