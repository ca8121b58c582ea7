"""The robust loss on other views of the same images: mirrored, and shifted by a few pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from robustscape.attacks.pgd import PGD
from robustscape.landscape._losses import losses
from robustscape.landscape.flatness import Estimate, t_interval
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, NotApplicable, Plain, Provenance, Subject

View: TypeAlias = Literal["mirror", "shift"]

_NAMES = ("clean_loss", "clean_error", "robust_loss", "robust_error")


@dataclass(frozen=True, kw_only=True)
class OnView:
    """Losses and errors on one view of the images.

    Attributes:
        view: "mirror" or "shift".
        robust: Rise of the robust loss over that on the images as they are, nats; its interval covers the choice of
            the examples, n of them.
        clean: Rise of the clean loss, likewise.
        robust_loss: Robust loss on the view, nats.
        robust_error: Robust error there, a fraction.
        clean_loss: Clean loss there, nats.
        clean_error: Clean error there, a fraction.
    """

    view: View
    robust: Estimate
    clean: Estimate
    robust_loss: float
    robust_error: float
    clean_loss: float
    clean_error: float


@dataclass(frozen=True, kw_only=True)
class ViewsResult:
    """How much worse a network is on other views of the images.

    Attributes:
        robust: Rise of the robust loss, mean over the views, nats; its interval covers the choice of the examples, n
            of them.
        clean: Rise of the clean loss, likewise.
        views: On each view.
        reference_robust_loss: Robust loss on the images as they are, nats.
        reference_robust_error: Robust error there, a fraction.
        reference_clean_loss: Clean loss there, nats.
        reference_clean_error: Clean error there, a fraction.
        shift: Pixels that an image was shifted by, at most.
        attack: The attack in words.
        n: Number of examples.
        split: Which split they are from.
        provenance: Where it came from.
    """

    robust: Estimate
    clean: Estimate
    views: tuple[OnView, ...]
    reference_robust_loss: float
    reference_robust_error: float
    reference_clean_loss: float
    reference_clean_error: float
    shift: int
    attack: str
    n: int
    split: str
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class Views:
    """How much the robust loss rises on views of the images that a label does not tell apart.

    With T a view, (1 / |T|) sum over T of mean_i [L(T x_i, y_i) - L(x_i, y_i)], L the robust loss. To be measured on
    training images: a network that was not trained on a view has seen these images and not the views, which are all but
    new images with known labels, so the rise goes with the gap from train to test. On test images it says what a view
    costs by itself. A measure of this library's own; Aithal 2021 (https://arxiv.org/abs/2101.06459) ranks naturally
    trained networks by how often augmented training images are misclassified.

    Attributes:
        attack: The attack, made anew on every view from the same random starts; searched on the fast view of the model,
            judged in float32.
        views: "mirror", left and right; "shift", every image by its own number of pixels in each direction. Leave out
            what changes a label, such as the mirror for digits, and what was trained with.
        shift: Most pixels of a shift in one direction; never 0 in both. What comes from outside is the mirrored image.
    """

    name: ClassVar[str] = "views"
    scale_free: ClassVar[bool] = True
    """Of the network's function alone."""

    attack: Attack = field(default_factory=lambda: PGD(steps=20, result="best_loss"))
    views: tuple[View, ...] = ("mirror", "shift")
    shift: int = 2

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not self.views or not set(self.views) <= {"mirror", "shift"}:
            raise BadInput(f"views are mirror and shift, at least one of them, not {list(self.views)}")
        if len(set(self.views)) < len(self.views):
            raise BadInput(f"a view stands twice in {', '.join(self.views)}")
        if self.shift < 1 or self.shift != int(self.shift):
            raise BadInput(f"shift must be a whole number of pixels, at least 1, not {self.shift}")

    def points(self) -> list[Plain]:
        """Return "reference", and the name of each view."""
        return ["reference", *self.views]

    def seen(self, subject: Subject, view: str) -> Tensor:
        """Return one view of a subject's images, (N, C, H, W); the images themselves for "reference".

        Raises:
            NotApplicable: images that are not larger than the shift.
        """
        x = subject.x
        if view == "mirror":
            return x.flip(-1)
        if view == "shift":
            return _shifted(x, self.shift, Streams(subject.seed, (self.name, "shift"), subject.index))
        assert view == "reference", view
        return x

    def at(self, subject: Subject, point: Plain) -> Plain:
        """Return the losses and errors of every example on one view.

        Raises:
            NotApplicable: images that are not larger than the shift.
            Diverged: a loss is not finite.
        """
        found = losses(replace(subject, x=self.seen(subject, point)), self.attack, self.name)
        return {name: getattr(found, name).tolist() for name in _NAMES}

    def collect(self, subject: Subject, values: Sequence[Plain], provenance: Provenance) -> ViewsResult:
        """Subtract the images as they are and put the views together."""
        at_x, *others = ({name: np.array(value[name]) for name in _NAMES} for value in values)
        means = {name: float(at_x[name].mean()) for name in _NAMES}
        n = len(subject.x)

        def rise(name: str, some: Sequence[dict[str, np.ndarray]]) -> Estimate:
            return t_interval(np.mean([one[name] for one in some], axis=0) - at_x[name], n=n)

        return ViewsResult(
            robust=rise("robust_loss", others),
            clean=rise("clean_loss", others),
            views=tuple(
                OnView(
                    view=view,
                    robust=rise("robust_loss", [one]),
                    clean=rise("clean_loss", [one]),
                    **{name: float(one[name].mean()) for name in _NAMES},
                )
                for view, one in zip(self.views, others, strict=True)
            ),
            **{f"reference_{name}": mean for name, mean in means.items()},
            shift=self.shift,
            attack=self.attack.describe(),
            n=n,
            split=subject.split,
            provenance=provenance,
        )


def _shifted(x: Tensor, most: int, rng: Streams) -> Tensor:
    """Return every image moved by its own whole numbers of pixels, up to ``most`` each way and not 0 in both."""
    n, _, height, width = x.shape
    if min(height, width) <= most:
        raise NotApplicable(f"a shift of {most} pixels needs images of more than that, not of {height}x{width}")
    side = 2 * most + 1
    place = rng.integers(side * side - 1, device=x.device)
    place = place + (place >= side * side // 2)  # all places but the middle
    padded = torch.nn.functional.pad(x, (most, most, most, most), mode="reflect")
    rows = (place // side)[:, None] + torch.arange(height, device=x.device)
    columns = (place % side)[:, None] + torch.arange(width, device=x.device)
    image = torch.arange(n, device=x.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous()
