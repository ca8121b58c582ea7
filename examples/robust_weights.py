"""What an adversary makes of logistic regression's weights: MNIST's 3 against 8, at growing eps.

    python examples/robust_weights.py [PICTURE.png]

Prints clean and exact robust accuracy on the test images and writes the picture of the weights.
"""

import sys
from pathlib import Path

import numpy as np

from robustscape.data.mnist import MNIST
from robustscape.figures.style import caption, figure, save, styled
from robustscape.linear.estimator import RobustLogisticRegression

EPS = (0.0, 0.05, 0.1, 0.2)  # of the pixel range, each pixel by itself


def main(picture: str = "robust_weights.png") -> None:
    """Fit, print and draw."""
    splits = MNIST(classes=(3, 8)).load(seed=0)
    train, test = ((part.pixels().flatten(1).numpy(), part.y.numpy()) for part in (splits.train, splits.test))
    models = RobustLogisticRegression(norm="linf", box=(0, 1)).path(*train, eps=EPS)
    with styled():
        made, axes = figure(1, len(EPS), height=2.1)
        for ax, model in zip(axes, models, strict=True):
            w = model.coef_[0]
            clean, robust = 100 * model.score(*test), 100 * model.robust_score(*test, eps=0.1)
            print(f"eps {model.eps:4}: accuracy {clean:.1f} %, robust at 0.1 {robust:.1f} %, {(w != 0).sum()} weights")
            ax.imshow(w.reshape(28, 28), cmap="RdBu_r", vmin=-np.abs(w).max(), vmax=np.abs(w).max())
            ax.set(title=f"ε = {model.eps:g}\n{robust:.0f} % robust at 0.1", xticks=[], yticks=[])
        text = "Weights of 8 (red) against 3 (blue), each on its own scale. Robust: exact accuracy under L∞, ε = 0.1, "
        caption(made, f"{text}inside the pixel range, on {len(test[1]):,} test images; {len(train[1]):,} to train.")
        save(made, Path(picture))


if __name__ == "__main__":
    main(*sys.argv[1:2])
