"""Someone else's model in ten lines: load it, evaluate it, see which attack found what and whether to believe it.

    python examples/evaluate_someone_elses_model.py [SOURCE WEIGHTS]

SOURCE is whatever `robustscape.load` takes, for example package.module:function, and WEIGHTS its file of weights, made
for scikit-learn's digits. Without them someone else is own_model.py, whose network is trained first; it takes seconds.
"""

import sys
import tempfile
from pathlib import Path

import own_model

from robustscape import evaluate, load
from robustscape.data.digits import Digits


def judged(source: str, weights: Path) -> None:
    """Evaluate a model on 100 test images under L-infinity, eps 0.1."""
    model = load(source, weights=weights)
    images = Digits().load(seed=0).test.take(slice(0, 100))
    result = evaluate(model, images.pixels(), images.y, eps=0.1, suite="standard")
    print(f"misclassified without attack: {result.clean_error.value:.0%}")
    for search in result.searches:
        print(f"{search.attack}: searched {search.tried}, fooled {search.flips} that nothing before had")
    error = result.robust_error
    print(f"robust error {error.value:.0%}, 95 % interval {error.low:.0%} to {error.high:.0%}, of {error.n}")
    for finding in result.findings:
        print("!" if finding.fired else " ", f"{finding.name}: {finding.evidence}")


def main(source: str = "own_model:Net", weights: str = "") -> None:
    """Evaluate the model given, or one that is made for the purpose."""
    if weights:
        judged(source, Path(weights))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.pt"
        own_model.train(file)
        judged(source, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
