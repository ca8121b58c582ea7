"""Fashion-MNIST: 60,000 and 10,000 pictures of clothes of 28 x 28 pixels, from the original idx files."""

from __future__ import annotations

from dataclasses import dataclass

from robustscape.data import sources
from robustscape.data.mnist import idx_images
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import Splits

_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


@dataclass(frozen=True, kw_only=True)
class FashionMNIST:
    """Fashion-MNIST, (1, 28, 28), ten classes; from Xiao, Rasul and Vollgraf 2017, https://arxiv.org/abs/1708.07747.

    Attributes:
        classes: Which classes, for example 0 6: they become classes 0 and 1 in every split; None for all ten.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
        data_dir: Folder that holds a folder fashion_mnist with the four original gzipped idx files, or the files
            themselves; None for the folder in the environment variable ROBUSTSCAPE_DATA. Where they are in
            neither, they are downloaded once into the user's cache.
    """

    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 1000
    data_dir: str | None = None

    def __post_init__(self) -> None:
        """Refuse what Fashion-MNIST cannot give."""
        check_choice(self, known=len(_CLASSES))

    def load(self, *, seed: int) -> Splits:
        """Read (and download if need be) the data; ``seed`` draws validation and the images of per_class.

        A file that is damaged, or missing and not to be downloaded, is a BadInput, and so is a per_class of
        more images than there are.
        """
        name = called("Fashion-MNIST", self.classes)
        train, test = idx_images(sources.FASHION_MNIST, "fashion_mnist", self.data_dir, _CLASSES, name)
        return chosen_splits(self, train, test, seed=seed)
