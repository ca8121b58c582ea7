"""CIFAR-10: 50,000 and 10,000 photographs of 32 x 32 pixels, from the original python archive."""

from __future__ import annotations

from dataclasses import dataclass

from robustscape.data import sources
from robustscape.data._cifar import cifar_images
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import Splits

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The ten classes in the order of their labels."""

_MEMBERS = {
    "train": tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
    "test": ("cifar-10-batches-py/test_batch",),
}


@dataclass(frozen=True, kw_only=True)
class CIFAR10:
    """CIFAR-10, (3, 32, 32), ten classes; from Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.

    Attributes:
        classes: Which classes, for example 6 8: they become classes 0 and 1 in every split; None for all ten.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
        data_dir: Folder that holds cifar-10-python.tar.gz, or a folder cifar10 with it; None for the folder in
            the environment variable ROBUSTSCAPE_DATA. Where it is in neither, it is downloaded once into the
            user's cache. It is decoded once, also into that cache.
    """

    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 1000
    data_dir: str | None = None

    def __post_init__(self) -> None:
        """Refuse what CIFAR-10 cannot give."""
        check_choice(self, known=len(CLASSES))

    def load(self, *, seed: int) -> Splits:
        """Read (and download if need be) the data; ``seed`` draws validation and the images of per_class.

        An archive that is damaged, or missing and not to be downloaded, is a BadInput, and so is a per_class of
        more images than there are.
        """
        train, test = cifar_images(
            sources.CIFAR10,
            "cifar10",
            self.data_dir,
            members=_MEMBERS,
            labels="labels",
            classes=CLASSES,
            name=called("CIFAR-10", self.classes),
        )
        return chosen_splits(self, train, test, seed=seed)
