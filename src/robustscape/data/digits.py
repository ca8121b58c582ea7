"""scikit-learn's digits: 1,797 images of 8 x 8 pixels, part of the library, so nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from robustscape.data.splits import check_part, make_splits, stratified
from robustscape.types import Images, Splits


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Handwritten digits, (1, 8, 8), ten classes; from Alpaydin and Kaynak 1998, UCI, https://doi.org/10.24432/C50P49.

    Deviations:
        The 17 grey levels v are stored as the nearest of 256: round(v * 255 / 16). What scikit-learn
        embeds is the test part of the original, so train and test are drawn here and share writers.

    Attributes:
        validation: Size of the validation split: an int is a number of images, a float a fraction in (0, 1)
            of what is left of the set without test.
        test: Size of the test split: an int is a number of images, a float a fraction in (0, 1) of the set.
    """

    validation: int | float = 0.1
    test: int | float = 0.25

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be meant."""
        check_part("validation", self.validation)
        check_part("test", self.test)

    def load(self, *, seed: int) -> Splits:
        """Read the data; ``seed`` draws test and validation, stratified by class."""
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
        levels = np.rint(values * (255 / 16)).astype(np.uint8)
        whole = Images(
            x=torch.from_numpy(levels).view(-1, 1, 8, 8),
            y=torch.from_numpy(labels.astype(np.int64)),
            index=torch.arange(len(labels)),
            classes=tuple(str(digit) for digit in range(10)),
            name="Digits",
        )
        rest, test = stratified(whole, self.test, seed=seed, purpose="test")
        return make_splits(whole.take(rest), whole.take(test), validation=self.validation, seed=seed)
