"""Why the curvature of the loss differs along eps: gradients of the logits, and how spread predictions are.

    python benchmarks/facts_logits.py

The Hessian of the cross-entropy in the weights has a part J' S J, the Gauss-Newton part: J the gradients of the logits
in the weights, S = diag(p) - p p' the spread of the predicted probabilities. Its eigenvalues add up to tr(S J J'),
here the mean over training images, attacked at the network's own eps. For the CIFAR-10 networks of ``facts.py``, which
must be there; written to benchmarks/results/facts-logits.json. On one core of a Xeon at 2.8 GHz, some minutes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from facts_plan import ONE, Look, plan
from torch import Tensor, nn

from robustscape.config import from_plain
from robustscape.evaluation.subject import subject
from robustscape.landscape.operator import worst_inputs
from robustscape.landscape.spectrum import Spectrum
from robustscape.models.loading import load
from robustscape.results import commit, now, processor, read_run, versions, write_json
from robustscape.types import Plain

GROUPS = ("cifar10-train/", "cifar10-long-train/")
N = 24
"""Images, the first of the training set."""


def curvature_of(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return means over images: |J|^2 with the logits' mean taken off, tr S, tr(S J J'), and the loss in nats.

    Args:
        model: In eval mode.
        x: (N, C, H, W), inputs in [0, 1].
        y: (N,), labels.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    sums = torch.zeros(4, dtype=torch.float64)
    for image, label in zip(x, y, strict=True):
        logits = model(image[None])[0]
        rows = [torch.autograd.grad(logit, weights, retain_graph=True) for logit in logits]
        slopes = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows]).double()
        gram, p = slopes @ slopes.T, logits.detach().double().softmax(0)
        spread = torch.diag(p) - torch.outer(p, p)
        centred = gram.trace() - gram.mean() * len(gram)
        sums += torch.stack([centred, spread.trace(), (spread @ gram).trace(), -p[label].log()])
    names = ("squared norm of the logits' gradients", "spread", "Gauss-Newton trace", "robust loss")
    return dict(zip(names, (sums / len(x)).tolist(), strict=True))


def looked_at(look: Look) -> Plain:
    """Return the numbers of one network, on training images that the look's first attack moved."""
    run = from_plain(read_run(look.run)["run"])
    images = run.data.load(seed=run.seed).train.take(slice(0, N))
    model = load(str(look.run), checkpoint="last").eval()
    spectrum = look.measurements[0]
    assert isinstance(spectrum, Spectrum) and spectrum.attack is not None, "what the plan looks at first"
    attack = spectrum.attack
    about = subject(
        model, images.pixels(), images.y, index=images.index, runtime=ONE, batch=128, classes=images.classes
    )
    return {"attack": attack.describe(), **curvature_of(model, worst_inputs(about, attack, "spectrum"), images.y)}


def main() -> None:
    """Look at every network and write what was found."""
    torch.set_num_threads(1)
    looks = {name: look for name, look in plan(small=False).looks().items() if name.startswith(GROUPS)}
    found: Plain = {}
    for name, look in looks.items():
        found[name] = looked_at(look)
        print(name, {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in found[name].items()})
    about = {"created": now(), "versions": versions(), "commit": commit(), "device": processor(), "threads": 1}
    path = Path(__file__).parent / "results" / "facts-logits.json"
    write_json(path, {**about, "n": N, "split": "train", "networks": found})
    print(path)


if __name__ == "__main__":
    main()
