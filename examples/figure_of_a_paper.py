# %% [markdown]
"""A paper's figure for a network of one's own: robust loss against flatness, over the epochs of one training.

    python examples/figure_of_a_paper.py [PICTURE.png]

Figure 6 of Stutz, Hein and Schiele 2021 (https://arxiv.org/abs/2104.04448): along an adversarial training the robust
loss on test images first falls, and then rises while the network goes on fitting the training images; what is lost with
it is flatness. Here a plain PyTorch network on 200 of scikit-learn's digits, in a minute. Editors that know such cells
run them one by one.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.digits import Digits
from robustscape.evaluation.subject import subject
from robustscape.figures.style import INK, caption, figure, save, styled
from robustscape.landscape.flatness import AverageFlatness, FlatnessResult
from robustscape.landscape.runner import measure
from robustscape.runtime import Runtime
from robustscape.streams import Streams

EPOCHS, EVERY = 40, 4
PICTURE = next((Path(word) for word in sys.argv[1:] if word.endswith(".png")), Path("figure_of_a_paper.png"))

# %% [markdown]
# ## The network and the images
# Put your own here: any module from pixels in [0, 1] to logits, in the place of ``model``, and your own images.

# %%
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 16, 10),
)
digits = Digits().load(seed=0)
train, test = digits.train.take(slice(0, 200)), digits.test.take(slice(0, 200))

# %% [markdown]
# ## What is measured
# The robust loss on test images, and how much it rises on average under random weights within a quarter of each layer's
# norm, attacked anew under every draw. Every epoch has the same draws and the same starts of the attack.

# %%
attack = PGD(threat=ThreatModel(norm="linf", eps=0.1), steps=7)
flatness = AverageFlatness(attack=replace(attack, result="best_loss"), xi=0.25, samples=8)
looked_at = subject(model, test.pixels(), test.y, index=test.index, runtime=Runtime(compile="no"))

# %% [markdown]
# ## Training, with a look after some epochs
# Adversarial training as in Madry et al. 2018: attack the batch, then a step on what was found.

# %%
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
epochs, found, fitted = [], [], []
for epoch in range(1, EPOCHS + 1):
    seen = []
    for rows in torch.randperm(len(train)).split(50):
        x, y = train.pixels(rows), train.y[rows]
        x_adv = attack(model, x, y, rng=Streams(0, ("training", epoch), train.index[rows]))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x_adv), y)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    if epoch % EVERY == 0:
        result = measure(flatness, looked_at)
        assert isinstance(result, FlatnessResult)
        epochs.append(epoch)
        found.append(result)
        fitted.append(sum(seen) / len(seen))
        print(
            f"epoch {epoch:3}: robust loss {result.reference_robust_loss:.3f}, in training {fitted[-1]:.3f}; "
            f"flatness {result.robust.value:.3f}"
        )

# %% [markdown]
# ## The figure

# %%
losses, rises = [r.reference_robust_loss for r in found], [r.robust.value for r in found]
best = min(range(len(found)), key=losses.__getitem__)
print(
    f"best after epoch {epochs[best]}: {losses[best]:.3f}; last {losses[-1]:.3f}, flatness {rises[best]:.3f} and "
    f"{rises[-1]:.3f}"
)
with styled():
    made, (left, right) = figure(1, 2, height=2.6)
    left.plot(epochs, losses, label="test", color=INK)
    left.plot(epochs, fitted, ":", label="in training", color=INK)
    left.set(xlabel="epoch", ylabel="robust loss, nats", ylim=(0, None))
    left.legend()
    points = right.scatter(rises, losses, c=epochs, cmap="viridis", s=18, zorder=2)
    arrow = {"arrowstyle": "->", "color": INK, "linewidth": 0.8, "shrinkA": 5, "shrinkB": 5}
    right.annotate("", (rises[best], losses[best]), (rises[-1], losses[-1]), arrowprops=arrow)
    right.set(xlabel="average-case flatness of the robust loss, nats", ylabel="robust loss, nats")
    made.colorbar(points, ax=right, label="epoch")
    text = f"{len(test)} test and {len(train)} training digits; {attack.describe()}; flatness: xi {flatness.xi}, "
    caption(made, f"{text}{flatness.samples} draws. The arrow goes from the last epoch to the best on test.")
    save(made, PICTURE)
