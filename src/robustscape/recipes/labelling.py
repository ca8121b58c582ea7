"""Pseudo-labels: the classes that a network gives to images."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from robustscape.data.archives import BROKEN
from robustscape.data.cache import digest, fingerprint
from robustscape.evaluation.judging import predicted
from robustscape.results import written
from robustscape.runtime.ranks import from_first, is_first, share, sum_over_ranks, world
from robustscape.training.checkpoints import digest as digest_of_weights
from robustscape.types import Diverged, Images

_SECONDS = 30.0
"""Between two times that what is done is kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """What a network says of N images.

    Attributes:
        y: The likeliest class, (N,), int64; the first of equals.
        confidence: Its probability, (N,), float32, in [0, 1].
    """

    y: np.ndarray
    confidence: np.ndarray


def labelling(
    model: nn.Module, images: Images, *, batch_size: int, partial: Path
) -> Generator[tuple[int, int], None, Labels]:
    """Label images by a network in eval mode, in its own precision; give (done, all) as it goes on.

    Ranks share the images and all return the same. What is done is kept in ``partial``, from where the same call
    goes on, to the same bits; the caller removes it.

    Args:
        model: (N, C, H, W) pixels in [0, 1] to logits, (N, K), on the device that it runs on.
        images: The images; their labels are not looked at.
        batch_size: Images a forward, at least 1, on each rank.
        partial: A file of its own.

    Yields:
        How many images are labelled, and how many there are.

    Raises:
        Diverged: the network gives an output that is not finite.
    """
    count, block = len(images), batch_size * world()
    key = fingerprint((digest_of_weights(model), digest({"x": images.x.cpu().numpy()}), block)) if is_first() else ""
    done, found = from_first(_taken_up(partial, key, count) if is_first() else (0, np.empty(0)))
    saved = time.monotonic()
    while done < count:
        rows = min(block, count - done)
        found[:, done : done + rows] = _labelled(model, images, done, rows)
        done += rows
        if is_first() and (time.monotonic() - saved > _SECONDS):
            with written(partial) as file:
                np.savez(file, key=np.array(key), done=np.array(done), found=found)
            saved = time.monotonic()
        yield done, count
    return Labels(y=found[0].astype(np.int64), confidence=found[1].astype(np.float32))


def _labelled(model: nn.Module, images: Images, start: int, rows: int) -> np.ndarray:
    """Return class and probability, (2, rows), of images that the ranks share."""
    mine = share(rows)
    found = torch.zeros(2, rows, dtype=torch.float64)
    if mine.stop > mine.start:
        device = next((tensor.device for tensor in model.parameters()), images.x.device)
        logits = predicted(model, images.pixels(slice(start + mine.start, start + mine.stop)).to(device))
        if not bool(torch.isfinite(logits).all()):
            raise Diverged(f"the model's output is not finite for some of the images from number {start} on")
        confidence, y = logits.softmax(dim=1).max(dim=1)
        found[:, mine] = torch.stack([y.double(), confidence.double()]).cpu()
    return sum_over_ranks(found).numpy()


def _taken_up(partial: Path, key: str, count: int) -> tuple[int, np.ndarray]:
    """Return how many images were labelled before by this network, and with what, (2, N)."""
    try:
        with np.load(partial, allow_pickle=False) as stored:
            if str(stored["key"]) == key and stored["found"].shape == (2, count):
                return int(stored["done"]), stored["found"]
    except BROKEN:
        pass
    return 0, np.zeros((2, count))
