"""Augmentation by kornia, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustscape.benches.harness import Side
from robustscape.benches.peers import imported
from robustscape.data.augment import Augmentation, Chain, CropFlip
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.erase import Erase
from robustscape.data.jitter import ColorJitter
from robustscape.data.warp import Rotate

PEER = "kornia"
ALONE, TOGETHER = f"{PEER}, image by image", f"{PEER}, one pair for the batch"
"""What results call its AutoAugment, which draws one pair for all images that it is given at once."""


def augmenters(
    kinds: Mapping[str, Augmentation | Chain], x: Tensor, *, batches: int
) -> tuple[dict[str, Side], dict[str, str]]:
    """Return kornia's sides, named "KIND, kornia", that augment a batch several times, and why others cannot.

    Kinds that kornia has not are passed over. It draws from torch's own random state, which is left as it was.

    Args:
        kinds: Ours, whose settings it is asked for.
        x: Images, (N, C, H, W), float32 in [0, 1].
        batches: How often a side augments them.
    """
    kornia, reason = imported("kornia.augmentation")
    if kornia is None:
        return {}, {PEER: reason}
    sides: dict[str, Side] = {}
    missing: dict[str, str] = {}
    for name, ours in kinds.items():
        theirs = counterpart(kornia, ours, (x.shape[2], x.shape[3]))
        if theirs is None:
            continue
        policy = isinstance(ours, AutoAugment)
        if x.shape[1] != 3 and (policy or (isinstance(ours, ColorJitter) and ours.hue)):
            missing[f"{name}, {PEER}"] = "is for images of 3 channels alone"
        elif policy:
            sides[f"{name}, {ALONE}"] = _side(theirs, x.split(1), batches)
            sides[f"{name}, {TOGETHER}"] = _side(theirs, (x,), batches)
        else:
            sides[f"{name}, {PEER}"] = _side(theirs, (x,), batches)
    return sides, missing


def counterpart(kornia: Any, ours: Augmentation | Chain, size: tuple[int, int]) -> nn.Module | None:
    """Return kornia's kind with the settings of ours, None where it has none.

    What still differs: it turns a coin for whether an erased rectangle is high or wide, and cuts it to the image where
    ours draws it again; one order of a colour jitter is for the whole batch; AutoAugment's levels are intervals of its
    own, its signs are fixed, and what comes from outside is black.

    Args:
        kornia: Its module ``augmentation``.
        ours: The kind.
        size: Height and width of the images.
    """
    match ours:
        case CropFlip(pad=pad, mode=mode, flip=True, fill=(0.0,)):
            padding = {"zeros": "constant", "reflect": "reflect"}[mode]
            crop = kornia.RandomCrop(size, padding=pad, padding_mode=padding)
            return nn.Sequential(crop, kornia.RandomHorizontalFlip(p=0.5))
        case Rotate(degrees=degrees, mode=mode):
            return kornia.RandomRotation(degrees, resample=mode, p=1.0)
        case Erase(probability=probability, area=area, aspect=aspect, fill=(value,)):
            return kornia.RandomErasing(scale=area, ratio=aspect, value=value, p=probability)
        case ColorJitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue):
            return kornia.ColorJitter(brightness, contrast, saturation, hue)
        case AutoAugment():
            return kornia.auto.AutoAugment(policy="cifar10", transformation_matrix_mode="skip")
    return None


def _side(augment: nn.Module, parts: tuple[Tensor, ...], batches: int) -> Side:
    def side() -> float:
        device = parts[0].device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            for _ in range(batches):
                torch.cat([augment(part) for part in parts])
        return batches * sum(map(len, parts))

    return side
