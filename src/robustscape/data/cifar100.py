"""CIFAR-100: 50,000 and 10,000 photographs of 32 x 32 pixels, from the original python archive."""

from __future__ import annotations

from dataclasses import dataclass

from robustscape.data import sources
from robustscape.data._cifar import cifar_images
from robustscape.data.splits import called, check_choice, chosen_splits
from robustscape.types import Splits

CLASSES = (
    *("apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle"),
    *("bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle"),
    *("chair", "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur"),
    *("dolphin", "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard"),
    *("lamp", "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain"),
    *("mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree"),
    *("plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket"),
    *("rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider"),
    *("squirrel", "streetcar", "sunflower", "sweet_pepper", "table"),
    *("tank", "telephone", "television", "tiger", "tractor"),
    *("train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm"),
)
"""The hundred fine classes in the order of their labels."""

_MEMBERS = {"train": ("cifar-100-python/train",), "test": ("cifar-100-python/test",)}


@dataclass(frozen=True, kw_only=True)
class CIFAR100:
    """CIFAR-100, (3, 32, 32), a hundred classes; from Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.

    Attributes:
        classes: Which classes, for example 23 71: they become classes 0 and 1 in every split; None for all.
        per_class: Training images of each class, drawn by seed; None for all.
        validation: Size of the validation split, taken from the training set: an int is a number of
            images, a float a fraction in (0, 1).
        data_dir: Folder that holds cifar-100-python.tar.gz, or a folder cifar100 with it; None for the folder in
            the environment variable ROBUSTSCAPE_DATA. Where it is in neither, it is downloaded once into the
            user's cache. It is decoded once, also into that cache.
    """

    classes: tuple[int, ...] | None = None
    per_class: int | None = None
    validation: int | float = 1000
    data_dir: str | None = None

    def __post_init__(self) -> None:
        """Refuse what CIFAR-100 cannot give."""
        check_choice(self, known=len(CLASSES))

    def load(self, *, seed: int) -> Splits:
        """Read (and download if need be) the data; ``seed`` draws validation and the images of per_class.

        An archive that is damaged, or missing and not to be downloaded, is a BadInput, and so is a per_class of
        more images than there are.
        """
        train, test = cifar_images(
            sources.CIFAR100,
            "cifar100",
            self.data_dir,
            members=_MEMBERS,
            labels="fine_labels",
            classes=CLASSES,
            name=called("CIFAR-100", self.classes),
        )
        return chosen_splits(self, train, test, seed=seed)
