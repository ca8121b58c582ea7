"""Batches of labelled and pseudo-labelled images together, as robust self-training takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustscape.data.splits import stratified
from robustscape.data.targets import Targets
from robustscape.streams import Streams
from robustscape.types import BadInput, Batch, Images


@dataclass(frozen=True, kw_only=True, eq=False)
class MixedLoader:
    """Serve batches of which a part is pseudo-labelled: which, depends on nothing but seed, epoch and step.

    As the code of Carmon 2019 (https://arxiv.org/abs/1905.13736): no labelled image is taken again in an epoch before
    all others were, in orders of the epoch's own, and the pseudo-labelled ones are drawn with replacement. Both kinds
    are spread evenly over a batch's rows, so that every contiguous part of it has both. An image that is drawn again in
    an epoch is augmented in another way, and its target drawn anew.

    Attributes:
        labelled: Images with true labels.
        unlabelled: Images with pseudo-labels, of the same shape and classes, on the same device; their ``index`` is
            to differ from those of the labelled ones.
        batch_size: Examples of a batch, at least 2; the last of an epoch may have fewer.
        seed: Seed of order, draws and augmentation.
        share: Share of pseudo-labelled images in each batch, in (0, 1), to the nearest image.
        size: Examples of an epoch, so many batches; None for as many as there are labelled images, as Carmon's code.
        augment: As for ``Loader``.
        targets: As for ``Loader``, of both kinds of image; not mixup, which would mix the kinds.
    """

    labelled: Images
    unlabelled: Images
    batch_size: int
    seed: int
    share: float = 0.5
    size: int | None = None
    augment: Callable[[Tensor, Streams], Tensor] | None = None
    targets: Targets = field(default_factory=Targets)

    def __post_init__(self) -> None:
        """Refuse what cannot be mixed."""
        if not 0 < self.share < 1:
            raise BadInput(f"the share of pseudo-labelled images is in (0, 1), not {self.share:g}; without any, take "
                           "the labelled set alone")  # fmt: skip
        if not 0 < self._unlabelled_of(self.batch_size) < self.batch_size:
            raise BadInput(f"a batch of {self.batch_size}, {self.share:g} of it pseudo-labelled, would not have both "
                           "kinds of image; take larger batches")  # fmt: skip
        if len(self.unlabelled) == 0 or len(self.labelled) == 0:
            raise BadInput("a mixed batch needs labelled and pseudo-labelled images, and there are "
                           f"{len(self.labelled)} and {len(self.unlabelled)}")  # fmt: skip
        if self.labelled.x.shape[1:] != self.unlabelled.x.shape[1:] or self.labelled.classes != self.unlabelled.classes:
            raise BadInput(f"{self.labelled.name} and {self.unlabelled.name} differ in the shape of their images or in "
                           "their classes")  # fmt: skip
        if self._count() < 1:
            raise BadInput(f"an epoch must have at least 1 example, not {self._count()}")
        if self.targets.mixup:
            raise BadInput(f"mixup={self.targets.mixup:g} would mix labelled and pseudo-labelled images; leave it out")

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return -(-self._count() // self.batch_size)

    def _count(self) -> int:
        return len(self.labelled) if self.size is None else self.size

    def _sizes(self) -> list[int]:
        """Return the number of examples of each batch of an epoch."""
        count = self._count()
        return [min(self.batch_size, count - start) for start in range(0, count, self.batch_size)]

    def _unlabelled_of(self, n: int) -> int:
        return round(self.share * n)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of an epoch in its order, without those before step ``start``.

        Args:
            number: Which epoch: each has its own order, draws and augmentation.
            start: Step to begin at, in [0, len(self)].

        Yields:
            Batches with x float32 in [0, 1]; ``labelled`` says which labels are true.
        """
        device, count, taken = self.labelled.x.device, len(self.labelled), 0
        rounds = range(-(-self._count() // count))
        order = torch.cat([Streams(self.seed, ("order", number, again)).order(count) for again in rounds])
        seen = torch.zeros(count + len(self.unlabelled), dtype=torch.int64)
        for step, n in enumerate(self._sizes()):
            true = n - self._unlabelled_of(n)
            drawn = Streams(self.seed, ("unlabelled", number, step)).integers(len(self.unlabelled), n - true)
            rows = torch.cat([order[taken : taken + true], count + drawn])
            taken += true
            times = _counted(rows, seen)
            if step >= start:
                yield self._batch(rows.to(device), true, times.to(device), number)

    def _batch(self, rows: Tensor, true: int, times: Tensor, number: int) -> Batch:
        """Return a batch of an epoch.

        Args:
            rows: Of both sets, numbered on, first those with true labels.
            true: How many have true labels.
            times: How often each was drawn before in the epoch.
            number: Which epoch.
        """
        sets = self.labelled.take(rows[:true]), self.unlabelled.take(rows[true:] - len(self.labelled))
        n = len(rows)
        k = torch.arange(n, device=rows.device)
        labelled = (k + 1) * true // n > k * true // n
        place = torch.where(labelled, labelled.cumsum(0) - 1, true + (~labelled).cumsum(0) - 1)
        x, y, index = (torch.cat([getattr(images, name) for images in sets])[place] for name in ("x", "y", "index"))
        x = x.float().div_(255)
        if self.augment is not None:
            x = self.augment(x, Streams(self.seed, ("augment", number), index).then(times[place]))
        batch = Batch(x=x, y=y, index=index, labelled=labelled)
        rng = Streams(self.seed, ("targets", number), index).then(times[place])
        return self.targets(batch, rng, classes=len(self.labelled.classes))


def _counted(rows: Tensor, seen: Tensor) -> Tensor:
    """Return how often each of the rows came before, in this batch too, and count them in ``seen``."""
    ordered, order = rows.sort(stable=True)
    times = torch.empty_like(rows)
    times[order] = torch.arange(len(rows)) - torch.searchsorted(ordered, ordered)
    times += seen[rows]
    seen.index_add_(0, rows, torch.ones_like(rows))
    return times


def hidden_labels(images: Images, part: int | float, *, seed: int) -> tuple[Images, Images]:
    """Split a labelled set in two, each class alike: those that keep their labels, and those that are to lose them.

    The second still holds the true labels: train on it with those that a network gives, see ``relabelled``.

    Args:
        images: The set.
        part: How many lose their labels: an int is a number of images, a float a fraction in (0, 1).
        seed: Draws which.

    Raises:
        BadInput: the part is neither, or leaves nothing.
    """
    kept, lost = stratified(images, part, seed=seed, purpose="hidden labels")
    return images.take(kept), images.take(lost)


def relabelled(images: Images, y: Tensor) -> Images:
    """Return the images with other labels, such as the pseudo-labels that a network gives.

    Args:
        images: The images, N.
        y: (N,), int64 in [0, K), in their order.

    Raises:
        BadInput: another number of labels, or one that is no class.
    """
    if y.shape != images.y.shape:
        raise BadInput(f"{len(images)} images cannot have {tuple(y.shape)} labels")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(images.classes):
        raise BadInput(f"pseudo-labels lie in [{int(y.min())}, {int(y.max())}], but there are {len(images.classes)} "
                       "classes")  # fmt: skip
    return replace(images, y=y.to(images.y), name=f"{images.name}, pseudo-labelled")
