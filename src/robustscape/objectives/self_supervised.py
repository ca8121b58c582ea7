"""Adversarial training with self-supervision: a second head tells by how much an image is rotated."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import CrossEntropy
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.objectives._raising import raising
from robustscape.streams import Streams, torch_draws
from robustscape.types import Attack, BadInput, Batch, Loss

_ANGLES = 4  # 0, 90, 180 and 270 degrees
_COPIES = 2**40  # apart, the numbers of an image's rotated copies


@dataclass(frozen=True, kw_only=True)
class SelfSupervised:
    """Cross-entropy of adversarial inputs, plus ``weight`` times that of telling their rotations apart.

    Hendrycks 2019, https://arxiv.org/abs/1906.12340, section 4.1. A head on the features that the last linear layer
    sees gives four more outputs, for 0, 90, 180 and 270 degrees; all else is shared. ``prepare`` returns a network
    with the classes' logits and these four, (N, K + 4), which shares its tensors with the given one; that one, without
    the head, is what is tracked, chosen and kept. After the attack one forward and one backward pass through all
    images of the form together, in the mode that the model is in: the running statistics move once a step.

    Attributes:
        attack: The inner maximisation, on both heads: PGD or FGSM, whose loss is the form's.
        weight: Weight of the rotation loss (lambda), at least 0.
        form: "equation": the paper's, L(PGD(x), y) + weight / 4 sum over r of L(R_r(PGD(x)), r): one adversarial input
            an image, which is then rotated; the attack raises the whole. "five": the authors' code, for each image
            itself and its four rotations, each attacked on its own head, with an eighth of the rotations' loss.
            "half": Stutz' code, every second image rotated by a random angle in place of the image, each attacked on
            its own head.
        head: "linear", or "mlp": Stutz' code, features cut off to [0, 1], 256 hidden units with ReLU and BatchNorm.

    Deviations:
        From the paper: none known.
        From the authors' code, ``official``: it attacks in train mode (``Training.attack_mode``), and adds its random
        start to the clean images, which here stay clean.
        From Stutz' code, ``stutz``: it attacks but a half of each batch, by an oversight, and there the share of
        rotated images is drawn; here half of each batch is rotated.
        The first weights of the head are the same for every seed. On several ranks "half" rotates every second image
        of each rank's share; of parts of a batch, where memory is short, it takes the means over each part.
    """

    attack: Attack = field(default_factory=PGD)
    weight: float = 0.5
    form: Literal["equation", "five", "half"] = "equation"
    head: Literal["linear", "mlp"] = "linear"

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        if not 0 <= self.weight < float("inf"):
            raise BadInput(f"the weight of the rotation loss must be at least 0, not {self.weight:g}")
        if self.form not in ("equation", "five", "half"):
            raise BadInput(f"the form of self-supervision is 'equation', 'five' or 'half', not {self.form!r}")
        if self.head not in ("linear", "mlp"):
            raise BadInput(f"the rotation head is 'linear' or 'mlp', not {self.head!r}")
        attack = raising(self.attack, CrossEntropy())
        if not isinstance(attack, PGD | FGSM) or attack.loss != CrossEntropy() or attack.targeted:
            raise BadInput("self-supervision attacks both heads by raising their cross-entropy, which pgd and fgsm can "
                           f"and {type(attack).__name__} as it is set cannot; did you mean attack pgd?")  # fmt: skip
        if isinstance(attack, PGD) and attack.result == "misclassified":
            raise BadInput("result='misclassified' asks for one error, but there are two heads; did you mean 'last'?")
        object.__setattr__(self, "attack", attack)

    @classmethod
    def official(cls) -> SelfSupervised:
        """Return the setting of the authors' code: five copies of each image, attacked by PGD-10 at 8/255."""
        return cls(form="five")

    @classmethod
    def stutz(cls) -> SelfSupervised:
        """Return the setting of Stutz' code: every second image rotated, an MLP as head, weight 4."""
        threat = ThreatModel(eps=0.0314)
        attack = PGD(threat=threat, steps=7, step_size=0.007, start="direction", result="best_loss")
        return cls(attack=attack, form="half", head="mlp", weight=4.0)

    @property
    def takes(self) -> Literal["labels", "soft", "mixed"]:
        """Return "mixed", or "soft" where rotated images are attacked by labels of their own."""
        return "mixed" if self.form == "equation" else "soft"

    def prepare(self, model: nn.Module) -> nn.Module:
        """Return a network of the same tensors that has the rotation head as well.

        Raises:
            BadInput: the model has no linear layer for the head to stand beside, or one of a single output.
        """
        found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not found:
            raise BadInput(f"self-supervision puts its head beside the last linear layer, and {type(model).__name__} "
                           "has none")  # fmt: skip
        shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        trained = copy.deepcopy(model, shared)
        last = trained.get_submodule(found[-1])
        assert isinstance(last, nn.Linear)
        if last.out_features == 1:
            raise BadInput("self-supervision needs an output for each class, and the model has one for both; did you "
                           "mean --model.outputs classes?")  # fmt: skip
        heads = _Heads(last, self.head).train(last.training)
        if found[-1]:
            trained.set_submodule(found[-1], heads)
        else:
            trained = heads
        vars(trained)["without_heads"] = model  # past torch, for which it would be a part of the network
        return trained

    def stage(self, batch: Batch, rng: Streams, done: int, total: int) -> tuple[Batch, Attack]:
        """Return the images of the form, rotated ones with label -1 - r for angle r, and the attack on both heads.

        Raises:
            BadInput: images that are not square, or a single one where a head has batch normalisation.
        """
        _check_square(batch.x)
        assert isinstance(self.attack, PGD | FGSM)
        if self.form == "equation":
            return batch, replace(self.attack, loss=_Rotated(weight=self.weight))
        if self.form == "half" and self.head == "mlp" and len(batch) == 1:
            raise BadInput("a batch of 1 image has no statistics for the normalisation in the rotation head; choose a "
                           "training.batch_size that leaves no single image over")  # fmt: skip
        made = _five(batch) if self.form == "five" else _half(batch, rng.of(batch.index))
        return made, replace(self.attack, loss=_OwnHead(rotation=0.125 if self.form == "five" else 1.0))

    def __call__(self, model: nn.Module, batch: Batch, x_adv: Tensor) -> Loss:
        """Return the loss of both heads; ``batch`` as ``stage`` makes it."""
        _check_square(x_adv)
        target = batch.y if batch.target is None else batch.target
        if self.form == "equation":
            copies = [torch.rot90(x_adv, angle, dims=(2, 3)) for angle in range(_ANGLES)]
            outputs = model(torch.cat(copies))
            labels = torch.arange(_ANGLES, device=x_adv.device).repeat_interleave(len(x_adv))
            error = F.cross_entropy(outputs[: len(x_adv), :-_ANGLES], target)
            rotation = F.cross_entropy(outputs[:, -_ANGLES:], labels)
        else:
            outputs, rotated = model(x_adv), batch.y < 0
            upright = ~rotated
            # Of "five", what is known of the whole holds for parts of it too, whose means then add up to the whole's.
            fifth = len(outputs) / (1 + _ANGLES) if self.form == "five" else None
            error = _mean(outputs[upright, :-_ANGLES], target[upright], fifth)
            rotation = _mean(outputs[rotated, -_ANGLES:], -1 - batch.y[rotated], fifth and _ANGLES * fifth)
        total = error + self.weight * rotation
        return Loss(total=total, parts={"adversarial_cross_entropy": error, "rotation_cross_entropy": rotation})


def _check_square(x: Tensor) -> None:
    if x.shape[-1] != x.shape[-2]:
        raise BadInput(f"images that are rotated by 90 degrees must be square, not {x.shape[-2]} by {x.shape[-1]}")


def _mean(logits: Tensor, target: Tensor, count: float | None) -> Tensor:
    """Return the mean cross-entropy, 0 of no example; over so many, if that is given."""
    return F.cross_entropy(logits, target, reduction="sum") / (count or max(len(logits), 1))


# -- which images ----------------------------------------------------------------------------------------


def _five(batch: Batch) -> Batch:
    """Return each image with its label, followed by its four rotations with theirs."""
    copies = [batch.x, *(torch.rot90(batch.x, angle, dims=(2, 3)) for angle in range(_ANGLES))]
    labels = [batch.y, *(torch.full_like(batch.y, -1 - angle) for angle in range(_ANGLES))]
    index = [batch.index + number * _COPIES for number in range(1 + _ANGLES)]
    more = {name: getattr(batch, name) for name in ("target", "labelled")}
    more = {name: None if value is None else value.repeat_interleave(1 + _ANGLES, 0) for name, value in more.items()}
    x, y, index = (torch.stack(values, dim=1).flatten(0, 1) for values in (copies, labels, index))
    return Batch(x=x, y=y, index=index, **more)


def _half(batch: Batch, rng: Streams) -> Batch:
    """Return the images, every second of them rotated by an angle drawn for it."""
    angle = rng.tag("rotation").integers(_ANGLES)
    angle = torch.where(torch.arange(len(batch), device=batch.x.device) % 2 == 1, angle, -1)
    x, y = batch.x.clone(), batch.y.clone()
    for turns in range(_ANGLES):
        rows = angle == turns
        x[rows] = torch.rot90(batch.x[rows], turns, dims=(2, 3))
        y[rows] = -1 - turns
    return replace(batch, x=x, y=y)


# -- what the attack raises -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _OwnHead:
    """The cross-entropy of the head that an example is for: of the classes, or of angle r for the label -1 - r.

    ``rotation`` is the weight of the latter, which matters where examples share their statistics, in train mode.
    """

    rotation: float

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        outputs = model(x_adv)
        error = F.cross_entropy(outputs[:, :-_ANGLES], target.clamp(min=0), reduction="none")
        rotation = F.cross_entropy(outputs[:, -_ANGLES:], (-1 - target).clamp(min=0), reduction="none")
        return torch.where(target < 0, self.rotation * rotation, error)


@dataclass(frozen=True, kw_only=True)
class _Rotated:
    """The cross-entropy of an input plus ``weight`` times the mean one of its four rotations."""

    weight: float

    def __call__(self, model: nn.Module, x_adv: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        copies = [torch.rot90(x_adv, angle, dims=(2, 3)) for angle in range(1, _ANGLES)]
        turned = model(torch.cat(copies))[:, -_ANGLES:]
        outputs = model(x_adv)  # last: by this one the attack knows what is misclassified
        labels = torch.arange(_ANGLES, device=x_adv.device).repeat_interleave(len(x_adv))
        rotation = F.cross_entropy(torch.cat([outputs[:, -_ANGLES:], turned]), labels, reduction="none")
        error = F.cross_entropy(outputs[:, :-_ANGLES], target, reduction="none")
        return error + self.weight * rotation.view(_ANGLES, -1).mean(dim=0)


class _Heads(nn.Module):
    """The last linear layer and the rotation head side by side: features, (N, F), to (N, K + 4).

    Args:
        classes: The layer.
        kind: "linear" or "mlp".
    """

    def __init__(self, classes: nn.Linear, kind: Literal["linear", "mlp"]) -> None:
        super().__init__()
        self.classes = classes
        cpu = torch.device("cpu")
        with torch_draws(Streams(0, ("rotation head",)).torch_seed(), cpu), cpu:
            rotation: nn.Module = nn.Linear(classes.in_features, _ANGLES)
            if kind == "mlp":
                hidden = nn.Linear(classes.in_features, 256)
                rotation = nn.Sequential(
                    nn.Hardtanh(0.0, 1.0), hidden, nn.ReLU(), nn.BatchNorm1d(256), nn.Linear(256, _ANGLES)
                )
        self.rotation = rotation.to(classes.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Return both heads' logits."""
        return torch.cat([self.classes(features), self.rotation(features)], dim=1)
