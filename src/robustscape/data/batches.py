"""Batches of images that are held as uint8: made on their device, without workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from robustscape.data.targets import Targets
from robustscape.streams import Streams
from robustscape.types import BadInput, Batch, Images


@dataclass(frozen=True, kw_only=True, eq=False)
class Loader:
    """Serve the batches of every epoch: which, depends on nothing but seed, epoch and step.

    Attributes:
        images: The images, on the device that batches are wanted on.
        batch_size: Examples of a batch, at least 1; the last of an epoch may have fewer.
        seed: Seed of the order and of augmentation.
        augment: Changes a batch: (x, one stream per example) to x, such as ``augment.CropFlip``; None for
            nothing.
        drop_last: Leave out an epoch's last batch where it is not full.
        targets: What is trained towards in place of the labels.
    """

    images: Images
    batch_size: int
    seed: int
    augment: Callable[[Tensor, Streams], Tensor] | None = None
    drop_last: bool = False
    targets: Targets = field(default_factory=Targets)

    def __post_init__(self) -> None:
        """Refuse what gives no batch."""
        if self.batch_size < 1:
            raise BadInput(f"batch_size must be at least 1, not {self.batch_size}")
        if len(self) == 0:
            raise BadInput(f"{self.images.name} has {len(self.images)} images: no batch of {self.batch_size}")

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        full, rest = divmod(len(self.images), self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of an epoch in its order, without those before step ``start``.

        Args:
            number: Which epoch: each has its own order and augmentation.
            start: Step to begin at, in [0, len(self)].

        Yields:
            Batches with x float32 in [0, 1], with soft labels where ``targets`` makes any.
        """
        order = Streams(self.seed, ("order", number)).order(len(self.images)).to(self.images.x.device)
        for step in range(start, len(self)):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            x, index = self.images.pixels(rows), self.images.index[rows]
            if self.augment is not None:
                x = self.augment(x, Streams(self.seed, ("augment", number), index))
            batch = Batch(x=x, y=self.images.y[rows], index=index)
            rng = Streams(self.seed, ("targets", number), index)
            yield self.targets(batch, rng, classes=len(self.images.classes))
