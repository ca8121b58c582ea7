"""What a user's images and a user's model must be before a number about them can be believed."""

from __future__ import annotations

import torch
from torch import Tensor

from robustscape.types import BadInput

TOLERANCE = 1e-6
"""How far outside [0, 1] a pixel may be by rounding."""


def check_images(x: Tensor, y: Tensor, classes: int) -> None:
    """Refuse images and labels that no evaluation could be meant for.

    Args:
        x: Should be (N, C, H, W), float32 or float64, in [0, 1] to within 1e-6, N at least 1.
        y: Should be (N,), of an integer type, in [0, classes).
        classes: Number of classes.

    Raises:
        BadInput: they are not; the message says what was likely meant.
    """
    if x.ndim != 4:
        hint = "; did you mean x[None]?" if x.ndim == 3 else ""
        raise BadInput(f"images must be (N, C, H, W), not of shape {tuple(x.shape)}{hint}")
    if len(x) == 0:
        raise BadInput("there are no images: x is empty")
    if x.dtype == torch.uint8:
        raise BadInput("images are uint8; pass pixels in [0, 1]: did you mean x.float() / 255?")
    if x.dtype not in (torch.float32, torch.float64):
        raise BadInput(f"images must be float32 or float64, not {_name(x.dtype)}")
    _check_pixels(x)
    if y.ndim != 1 or len(y) != len(x):
        hint = "; did you mean y.argmax(1)?" if y.ndim == 2 and len(y) == len(x) else ""
        raise BadInput(f"labels must be one for each of the {len(x)} images, not of shape {tuple(y.shape)}{hint}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise BadInput(f"labels must be of an integer type, not {_name(y.dtype)}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        hint = "; did you mean y - 1?" if low == 1 and high == classes else ""
        raise BadInput(f"labels go from {low} to {high}, but {classes} classes are 0 to {classes - 1}{hint}")


def _check_pixels(x: Tensor) -> None:
    finite = torch.isfinite(x)
    if not finite.all():
        bad = int((~finite).flatten(1).any(1).sum())
        raise BadInput(f"{bad} of {len(x)} images have pixels that are NaN or infinite")
    low, high = float(x.min()), float(x.max())
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return
    if low < -TOLERANCE:
        hint = "they look normalised: pass pixels in [0, 1] and put the normalisation into the model"
    elif 2 < high <= 255:
        hint = "did you mean x / 255?"
    else:
        hint = "pixels are in [0, 1]"
    raise BadInput(f"images go from {low:g} to {high:g}; {hint}")


def check_logits(logits: Tensor, n: int, classes: int | None) -> None:
    """Refuse a model's output that is not logits.

    Args:
        logits: Should be (n, classes), floating, finite, and not rows of probabilities.
        n: Number of images that the model was given.
        classes: Number of classes, None for any from 2.

    Raises:
        BadInput: it is not.
    """
    if not isinstance(logits, Tensor):
        raise BadInput(f"the model returns a {type(logits).__name__}; it must return logits, a tensor (N, classes)")
    shape = tuple(logits.shape)
    if logits.ndim != 2 or shape[0] != n or (classes is not None and shape[1] != classes):
        one = "; did you mean two logits, (0, z)?" if shape in ((n,), (n, 1)) and classes in (None, 2) else ""
        raise BadInput(f"the model returns shape {shape} for {n} images; it must be ({n}, {classes or 'classes'}){one}")
    if shape[1] < 2:
        raise BadInput(f"the model returns {shape[1]} logit for each image; did you mean two, (0, z)?")
    if not logits.is_floating_point():
        raise BadInput(f"the model returns {_name(logits.dtype)}; it must return logits, which are floats")
    finite = torch.isfinite(logits)
    if not finite.all():
        bad = int((~finite).any(1).sum())
        raise BadInput(f"the model returns NaN or infinite logits for {bad} of {n} images")
    if _are_probabilities(logits):
        raise BadInput("the model returns probabilities; it must return logits: did you mean to leave out its softmax?")


def _are_probabilities(logits: Tensor) -> bool:
    """Return whether every row is in [0, 1] and sums to 1, to the rounding of a softmax in its type."""
    p = logits.detach().double()
    rounding = min(4 * torch.finfo(logits.dtype).eps * p.shape[1], 0.02)
    return bool((p >= 0).all() and (p <= 1 + rounding).all() and ((p.sum(1) - 1).abs() <= rounding).all())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
