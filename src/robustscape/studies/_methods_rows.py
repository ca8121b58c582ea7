"""What the study of methods trains: one small task, and what each method changes of adversarial training there.

Settings are those of the papers where they carry over to some hundred steps; a rate, decay or radius that would not
act in so short a training, or end it, is set to one that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.digits import Digits
from robustscape.data.erase import Cutout, Erase
from robustscape.data.folder import Folder
from robustscape.data.unlabelled import Unlabelled
from robustscape.evaluation.accuracy import Evaluating
from robustscape.models.lenet import LeNet
from robustscape.models.preact_resnet import PreActResNet
from robustscape.objectives.at import AT
from robustscape.objectives.fat import FAT
from robustscape.objectives.mart import MART
from robustscape.objectives.natural import Natural
from robustscape.objectives.noise import NoiseTraining
from robustscape.objectives.part_at import PartAT
from robustscape.objectives.rst import RST
from robustscape.objectives.self_supervised import SelfSupervised
from robustscape.objectives.trades import TRADES
from robustscape.recipes.run import Run
from robustscape.runtime import Runtime
from robustscape.training.optimizers.adam import Adam
from robustscape.training.optimizers.adamw import AdamW
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.cyclic import Cyclic
from robustscape.training.schedules.periodic import Periodic
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.schedules.rise import Rise
from robustscape.training.settings import Training
from robustscape.weights.amp import AMP
from robustscape.weights.asam import ASAM
from robustscape.weights.awp import AWP
from robustscape.weights.rwp import RWP
from robustscape.weights.sam import SAM

Scale = Literal["small", "tiny"]
THREE = 3
"""Seeds of the methods that are told apart from chance."""

_ALONE = Runtime(device="cpu", compile="no", threads=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """A method, as what it changes of adversarial training.

    Attributes:
        name: What ``--methods`` and files call it, for example "label-noise".
        title: What the table calls it.
        setting: Its numbers, in words.
        change: Field of the Run to what stands there instead; a mapping changes fields of what stands there.
        seeds: How many, at least 1.
        lessens: Whether it is meant to lessen robust overfitting.
    """

    name: str
    title: str
    setting: str = ""
    change: Mapping[str, Any] = field(default_factory=dict)
    seeds: int = 1
    lessens: bool = False

    def run(self, base: Run, seed: int) -> Run:
        """Return the training: adversarial training as the method changes it."""
        return replace(changed(base, self.change), seed=seed)


def changed(value: Any, change: Mapping[str, Any]) -> Any:
    """Return a component with other fields; those of a mapping are changed in turn."""
    parts = {
        name: changed(getattr(value, name), item) if isinstance(item, Mapping) else item
        for name, item in change.items()
    }
    return replace(value, **parts)


def base(scale: Scale) -> Run:
    """Return adversarial training on the task that all methods share.

    "small": PreActResNet-18 of width 16 on 2,000 images shrunk to 16 x 16, in a third of the time of 32 x 32. 32
    epochs of 32 steps, PGD-2; each is judged by PGD-20 on 1,000 images. AT overfits robustly and visibly: of seed 0
    robust accuracy is best after 8 epochs, 20 % on test, and 7 % after the last, 81 % on train. "tiny": LeNet of width
    2 on digits, which says nothing.
    """
    if scale == "tiny":
        attack = PGD(threat=ThreatModel(eps=0.1), steps=2, step_size=0.05)
        data, model = Digits(test=0.5, validation=0.1), LeNet(width=2)
        training = Training(epochs=4, batch_size=128, optimizer=SGD(lr=0.05))
        evaluation = Evaluating(eps=0.1, steps=2, restarts=1, loss_steps=2, loss_restarts=1, n=100, sanity=0)
    else:
        attack = PGD(threat=ThreatModel(eps=8 / 255), steps=2, step_size=5 / 255)
        data = Folder(path="cifar10-jpeg", name="CIFAR-10 (JPEG)", per_class=200, validation=500, shrink=2)
        model = PreActResNet(width=16, mean=(0.4914, 0.4822, 0.4465), std=(0.2471, 0.2435, 0.2616))
        training = Training(epochs=32, batch_size=64, optimizer=SGD(lr=0.05), track_every=2)
        evaluation = Evaluating(steps=20, restarts=1, loss_steps=10, loss_restarts=1, step_size=2 / 255, sanity=0)
    tracked = replace(training, lr=Piecewise(at=(0.5, 0.75)), track=100, track_test=False, track_attack=attack)
    return Run(
        data=data, model=model, objective=AT(attack=attack), training=tracked, evaluation=evaluation, runtime=_ALONE
    )


def methods(run: Run) -> tuple[Method, ...]:
    """Return all methods, as changes of adversarial training, in the table's order; AT is the first."""
    return (
        Method(name="at", title="AT", seeds=THREE),
        *_weights(),
        *_averages(run),
        *_regularised(run),
        *_objectives(run),
        *_data(run),
        *_optimised(run),
        *_activated(),
    )


def _weights() -> tuple[Method, ...]:
    awp = "gamma 0.01"
    return (
        Method(name="awp", title="AT-AWP", setting=awp, change=_w(AWP(gamma=0.01)), seeds=THREE, lessens=True),
        Method(name="amp", title="AT-AMP", setting="delta 0.2", change=_w(AMP(delta=0.2)), seeds=THREE, lessens=True),
        Method(name="rwp", title="AT-RWP", setting="gamma 0.5", change=_w(RWP(gamma=0.5))),
        Method(name="sam", title="AT-SAM", setting="rho 0.1", change=_w(SAM(rho=0.1)), lessens=True),
        Method(name="asam", title="AT-ASAM", setting="rho 0.5", change=_w(ASAM(rho=0.5)), lessens=True),
    )


def _w(weights: object) -> dict[str, Any]:
    return {"weights": weights}


def _averages(run: Run) -> tuple[Method, ...]:
    begins = run.training.epochs // 2 + 1
    ema = {"ema": 0.995, "statistics": "clean" if isinstance(run.model, PreActResNet) else "auto"}
    swa = {"swa_start": begins, "swa_lr": 0.02}
    pas = {
        "eps": Periodic(of=Rise(high=2.0), resets=(0.5, 0.75)),
        "lr": Periodic(of=Piecewise(at=(0.5, 0.75)), resets=(0.5, 0.75)),
        "snapshots": True,
    }
    three = "cosine eps, periods 50, 25, 25 %"
    return (
        Method(name="ema", title="EMA", setting="decay 0.995", change=_t(ema), seeds=THREE, lessens=True),
        Method(
            name="swa", title="SWA", setting=f"from epoch {begins}, learning rate 0.02", change=_t(swa), lessens=True
        ),
        Method(name="pas", title="PAS", setting=three, change=_t(pas), seeds=THREE),
    )


def _t(training: Mapping[str, Any]) -> dict[str, Any]:
    return {"training": training}


def _regularised(run: Run) -> tuple[Method, ...]:
    most = 0.05 if isinstance(run.data, Digits) else 0.5
    decay, clip = {"optimizer": {"weight_decay": 0.02}}, {"clip_weights": 0.025, "clip_weights_of": "weights"}
    return (
        Method(
            name="weight-decay",
            title="Strong weight decay",
            setting="0.02",
            change=_t(decay),
            seeds=THREE,
            lessens=True,
        ),
        Method(name="weight-clipping", title="Weight clipping", setting="0.025", change=_t(clip), lessens=True),
        Method(
            name="gradient-clipping",
            title="Gradient clipping",
            setting=f"norm {most:g}",
            change=_t({"clip_gradient": most}),
        ),
        Method(name="l1", title="L1", setting="2.5e-4", change=_t({"l1": 2.5e-4}), lessens=True),
        Method(name="l2", title="L2", setting="5e-3", change=_t({"l2": 5e-3}), lessens=True),
    )


def _objectives(run: Run) -> tuple[Method, ...]:
    attack, half = run.objective.attack, Unlabelled(hide=0.5)
    assert isinstance(attack, PGD), "what base gives"
    trades = TRADES(attack=replace(attack, start="gaussian"))
    friendly = FAT(attack=replace(attack, steps=4, step_size=None))
    rotations = SelfSupervised(attack=attack, form="half")
    rst = {"objective": RST(attack=attack, form="at"), "unlabelled": half}
    both = {"objective": trades, "weights": AWP()}
    return (
        Method(name="natural", title="Natural", change={"objective": Natural()}),
        Method(
            name="noise",
            title="Noise",
            setting="uniform in the ball",
            change={"objective": NoiseTraining(attack=attack)},
        ),
        Method(name="trades", title="TRADES", setting="beta 6", change={"objective": trades}, lessens=True),
        Method(name="trades-awp", title="TRADES-AWP", setting="beta 6, gamma 0.005", change=both, lessens=True),
        Method(name="mart", title="MART", setting="beta 5", change={"objective": MART(attack=attack)}, lessens=True),
        Method(
            name="half",
            title="AT, half of the images",
            setting="as many as RST has labels",
            change={"unlabelled": half},
        ),
        Method(name="rst", title="RST of AT", setting="half of the labels hidden", change=rst, lessens=True),
        Method(
            name="self-supervision",
            title="Self-supervision",
            setting="lambda 0.5, half of each batch rotated",
            change={"objective": rotations},
        ),
        Method(name="fat", title="FAT", setting="tau 0, 1, 2, 4 steps", change={"objective": friendly}),
        Method(
            name="part-at",
            title="AT on a part",
            setting="half of each batch",
            change={"objective": PartAT(attack=attack)},
        ),
        Method(
            name="ignore-incorrect",
            title="AT, misclassified images clean",
            change={"objective": PartAT(attack=attack, share=1.0, misclassified="clean")},
        ),
        Method(
            name="predicted-labels",
            title="AT, predicted labels attacked",
            change={"objective": PartAT(attack=attack, share=1.0, labels="predicted")},
        ),
    )


def _data(run: Run) -> tuple[Method, ...]:
    size = 4 if isinstance(run.data, Digits) else 7
    noise, smoothing = {"targets": {"noise": 0.3}}, {"targets": {"smoothing": 0.3}}
    return (
        Method(name="label-noise", title="Label noise", setting="0.3", change=noise, seeds=THREE, lessens=True),
        Method(name="label-smoothing", title="Label smoothing", setting="0.3", change=smoothing, lessens=True),
        Method(name="autoaugment", title="AutoAugment", change={"augment": AutoAugment()}, seeds=THREE, lessens=True),
        Method(name="mixup", title="Mixup", setting="alpha 1.4", change={"targets": {"mixup": 1.4}}, lessens=True),
        Method(
            name="cutout", title="Cutout", setting=f"{size} pixels", change={"augment": Cutout(size=size)}, lessens=True
        ),
        Method(
            name="erase",
            title="Random erasing",
            setting="of half of the images",
            change={"augment": Erase()},
            lessens=True,
        ),
    )


def _optimised(run: Run) -> tuple[Method, ...]:
    sgd = run.training.optimizer
    walk = EntropySGD(lr=1.0, steps=5, step_size=0.1, inner_momentum=0.9, weight_decay=sgd.weight_decay)
    adam, adamw = Adam(lr=1e-3, weight_decay=5e-4), AdamW(lr=1e-3, weight_decay=0.05)
    cyclic = {"optimizer": {"lr": 2 * sgd.lr}, "lr": Cyclic()}
    large = {"optimizer": {"lr": 4 * sgd.lr}, "batch_size": 512}
    late, rise = {"lr": Piecewise.late()}, {"eps": Rise(high=2.0)}
    return (
        Method(name="entropy-sgd", title="Entropy-SGD", setting="L 5", change=_t({"optimizer": walk}), lessens=True),
        Method(name="adam", title="Adam", setting="learning rate 1e-3", change=_t({"optimizer": adam})),
        Method(name="adamw", title="AdamW", setting="learning rate 1e-3, decay 0.05", change=_t({"optimizer": adamw})),
        Method(name="cyclic", title="Cyclic", setting=f"to {2 * sgd.lr:g} and back", change=_t(cyclic)),
        Method(name="late", title="Late multi-step", setting="drops after 93 and 97 %", change=_t(late)),
        Method(name="cosine-eps", title="Cosine eps", setting="the full eps after 50 %", change=_t(rise)),
        Method(name="batch-512", title="Batches of 512", setting=f"learning rate {4 * sgd.lr:g}", change=_t(large)),
    )


def _activated() -> tuple[Method, ...]:
    titles = {"silu": "SiLU", "gelu": "GELU", "mish": "Mish", "softplus": "Softplus"}
    return tuple(
        Method(name=name, title=title, change={"model": {"activation": name}}) for name, title in titles.items()
    )
