"""Pixels and labels as others hold them, turned into Images; what cannot be meant is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from robustscape.types import BadInput, Images

_CHANNELS = 4
_AT_ONCE = 4096


def to_images(x: Any, y: Any, *, classes: tuple[str, ...], name: str) -> Images:
    """Return pixels and labels as Images, numbered in their order.

    Args:
        x: Pixels, see ``pixels``.
        y: Labels in [0, len(classes)), see ``labels``.
        classes: Name of each class.
        name: What a table calls the set.

    Raises:
        BadInput: what is given cannot be meant so.
    """
    levels, numbers = pixels(x, name), labels(y, name)
    if len(levels) != len(numbers):
        raise BadInput(f"{name} has {len(levels)} images and {len(numbers)} labels")
    if not len(levels):
        raise BadInput(f"{name} has no images")
    if numbers.max() >= len(classes):
        raise BadInput(f"{name} has a label {numbers.max()}, and {len(classes)} classes, from 0 on")
    return Images(
        x=torch.from_numpy(levels),
        y=torch.from_numpy(numbers),
        index=torch.arange(len(numbers)),
        classes=classes,
        name=name,
    )


def both(
    train: tuple[Any, Any], test: tuple[Any, Any], *, classes: tuple[str, ...] | None = None, name: str
) -> tuple[Images, Images]:
    """Return a training and a test set given as pairs of pixels and labels.

    Args:
        train: Pixels and labels of the training set; every class occurs in it.
        test: Those of the test set, its images as large.
        classes: Name of each class, None for their numbers.
        name: What a table calls the data set.

    Raises:
        BadInput: what is given cannot be meant so, or the two do not belong together.
    """
    there = np.unique(labels(train[1], f"{name}, train"))
    if classes is None:
        classes = tuple(str(number) for number in range(int(there.max(initial=0)) + 1))
    if len(there) != len(classes) or len(classes) < 2:
        hint = "; did you mean to subtract 1?" if len(there) and there[0] == 1 == len(classes) - len(there) else ""
        raise BadInput(
            f"{name} has training images of {len(there)} classes; it needs two or more, and each of the"
            f" {len(classes)} from 0 to {len(classes) - 1}{hint}"
        )
    a, b = (to_images(*pair, classes=classes, name=name) for pair in (train, test))
    if a.x.shape[1:] != b.x.shape[1:]:
        raise BadInput(f"{name} has images of {tuple(a.x.shape[1:])} in train and {tuple(b.x.shape[1:])} in test")
    return a, b


def pixels(x: Any, name: str) -> np.ndarray:
    """Return pixels as uint8, (N, C, H, W).

    Args:
        x: NumPy array or tensor, uint8, or float in [0, 1], which is rounded to the nearest of 256 levels;
            (N, H, W), (N, C, H, W) or (N, H, W, C): the axis of at most 4 is the channels.
        name: What to call it in messages.

    Raises:
        BadInput: another type, shape or range.
    """
    array = _numpy(x, name)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or 0 in array.shape[1:]:
        raise BadInput(f"{name} has pixels of shape {array.shape}; did you mean (N, C, H, W) or (N, H, W, C)?")
    first, last = array.shape[1] <= _CHANNELS, array.shape[3] <= _CHANNELS
    if first == last:
        raise BadInput(f"{name} has pixels of shape {array.shape}: which axis is the channels (at most 4) is not clear")
    array = array if first else array.transpose(0, 3, 1, 2)
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        hint = "; did you mean x.astype(np.uint8)?" if array.dtype.kind in "iu" else ""
        raise BadInput(f"{name} has pixels of type {array.dtype}; they must be uint8, or float in [0, 1]{hint}")
    levels = np.empty(array.shape, np.uint8)
    for start in range(0, len(array), _AT_ONCE):
        part = array[start : start + _AT_ONCE]
        if not (part.min() >= 0 and part.max() <= 1):  # NaN too
            hint = "; did you mean x / 255?" if part.min() >= 0 and part.max() <= 255 else ""
            raise BadInput(f"{name} has pixels from {part.min():g} to {part.max():g}; floats must be in [0, 1]{hint}")
        levels[start : start + _AT_ONCE] = np.rint(part.astype(np.float64) * 255)
    return levels


def labels(y: Any, name: str) -> np.ndarray:
    """Return labels as int64, (N,).

    Args:
        y: NumPy array, tensor or sequence of whole numbers from 0 on, (N,) or (N, 1).
        name: What to call it in messages.

    Raises:
        BadInput: another type, shape or range.
    """
    array = _numpy(y, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        hint = "; did you mean y.argmax(axis=1)?" if array.ndim == 2 else ""
        raise BadInput(f"{name} has labels of shape {array.shape}, {array.dtype}; they must be N whole numbers{hint}")
    if len(array) and not 0 <= int(array.min()) <= int(array.max()) < 1 << 20:
        raise BadInput(f"{name} has labels from {array.min()} to {array.max()}; they must count from 0")
    return array.astype(np.int64)


def class_names(names: np.ndarray, name: str) -> np.ndarray:
    """Return the names of classes, (K,), different texts.

    Args:
        names: The array.
        name: What holds it, for messages.

    Raises:
        BadInput: it is something else.
    """
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) < len(names):
        raise BadInput(f"{name} has classes of shape {names.shape}, {names.dtype}; they must be different texts")
    return names


def _numpy(value: Any, name: str) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{name} is no array: {error}") from None
