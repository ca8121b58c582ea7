"""Clean images beside the adversarial ones that an attack finds for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from robustscape import modes
from robustscape.evaluation.result import AdversarialImages
from robustscape.evaluation.subject import precision, subject
from robustscape.results import provenance, stopwatch
from robustscape.runtime import Runtime
from robustscape.streams import Streams
from robustscape.types import Attack


def adversarial_images(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    attack: Attack,
    *,
    n: int = 10,
    index: Tensor | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    classes: Sequence[str] = (),
    model_name: str = "",
    data_name: str = "",
) -> AdversarialImages:
    """Attack the first n examples and return both images of each, with the model's own predictions.

    Args:
        model: Maps pixels in [0, 1] to logits; left without a trace.
        x: (N, C, H, W), floats in [0, 1].
        y: (N,), integer labels.
        attack: The attack; runs on the fast view.
        n: How many examples, the first ones.
        index: (N,), the examples' numbers in their data set; by default 0 to N - 1.
        seed: Seed of all random numbers.
        runtime: Arithmetic of the search; by default the fastest that is known to be right.
        classes: Class names; by default their numbers.
        model_name: What was attacked, for provenance.
        data_name: Which data, for provenance.

    Raises:
        BadInput: images outside [0, 1], labels outside the classes, or a model whose output is not logits.
    """
    seconds = stopwatch()
    index = None if index is None else index[:n]
    s = subject(
        model,
        x[:n],
        y[:n],
        index=index,
        seed=seed,
        runtime=runtime,
        classes=classes,
        model_name=model_name,
        data_name=data_name,
    )
    with s.view as searched:
        x_adv = attack(searched, s.x, s.y, rng=Streams(seed, ("images",), s.index))
    with torch.no_grad(), modes.evaluating(model):
        clean, adversarial = (model(images).argmax(dim=1).cpu().numpy() for images in (s.x, x_adv))
    return AdversarialImages(
        x=s.x.cpu().numpy(),
        x_adv=x_adv.cpu().numpy(),
        y=s.y.cpu().numpy(),
        clean_prediction=clean,
        adversarial_prediction=adversarial,
        classes=s.classes,
        norm=attack.threat.norm,
        eps=attack.threat.eps,
        attack=attack.describe(),
        provenance=provenance(
            seconds=seconds(),
            device=s.x.device,
            precision=precision(s),
            seed=seed,
            model=s.model_name,
            data=f"{s.data_name}, first {len(s.x)}",
            settings=attack,
        ),
    )
