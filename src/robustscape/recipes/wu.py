"""Recipes of Wu, Xia and Wang 2020 (AWP), https://arxiv.org/abs/2004.05884: tables 1 and 2, figures 1 to 3, appendix C.

What the paper leaves to Rice 2020, whom it follows, is as in that code: batches of 128, constants inside the network,
SVHN with learning rate 0.01 and as it is, CIFAR-100 also rotated. Where text and code differ (warm-up, where weight
decay acts, BatchNorm under attack), the text stands; ``--weights awp.official`` is the code's. Of the sweeps over gamma
the paper prints the range and some points: the others are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from robustscape.data.augment import Chain, CropFlip
from robustscape.data.erase import Cutout
from robustscape.data.warp import Rotate
from robustscape.models.vgg import VGG
from robustscape.models.wide_resnet import WideResNet
from robustscape.recipes import _more_data, _rice
from robustscape.recipes.row import Row, rows_of
from robustscape.recipes.run import Run
from robustscape.training.optimizers.sgd import SGD
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.schedules.cyclic import Cyclic
from robustscape.weights.awp import AWP
from robustscape.weights.rwp import RWP

_SIZES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)  # of figure 2b
_FIRST_STAGE = "runs/wu_table2_pre_training_first_stage"
_RANGE = (1e-4, 1e-3, 5e-3, 1e-2, 0.1, 0.3, 0.6, 1.0, 2.0)  # of figure 3c


def rows() -> tuple[Row, ...]:
    """Return the rows of Wu 2020."""
    return (
        *rows_of("wu", "figure1b", _figure1b()),
        *rows_of("wu", "table1", _table1()),
        *rows_of("wu", "table2", _table2()),
        *rows_of("wu", "figure2a", _figure2a()),
        *rows_of("wu", "figure2b", _figure2b()),
        *rows_of("wu", "figure3c", _figure3c()),
        *rows_of("wu", "figure3d", _figure3d()),
        *rows_of("wu", "appendix_c", _appendix_c()),
    )


_Entries = Iterator[tuple[str, str, Run]]


def _at(data: str = "CIFAR-10", norm: str = "linf") -> Run:
    """Return adversarial training with Rice's augmentation of the data set, on SVHN his learning rate."""
    run = _rice.at(data, norm)
    if data == "SVHN":
        return replace(run, training=replace(run.training, optimizer=SGD(lr=0.01, momentum=0.9, weight_decay=5e-4)))
    if data == "CIFAR-100":
        return replace(run, augment=Chain(first=CropFlip(), second=Rotate(degrees=15.0)))
    return replace(run, augment=CropFlip(mode="reflect"))


def _awp(run: Run, gamma: float = 5e-3) -> Run:
    return replace(run, weights=AWP(gamma=gamma))


def _figure1b() -> _Entries:
    """AT-ES of the figure is the best checkpoint of AT."""
    run = _at()
    yield "AT", "", run
    yield "TRADES", "beta 6", _rice.trades(run)
    yield "MART", "beta 5", _rice.mart(run, beta=5.0)
    yield "RST", "beta 6, Carmon's images", _more_data.rst(run)


def _table1() -> _Entries:
    for norm in _rice.THREATS:
        for data in _rice.DATA:
            run = _at(data, norm)
            yield f"{norm}, AT, {data}", "", run
            yield f"{norm}, AT-AWP, {data}", "gamma 0.01", _awp(run, 1e-2)


def _table2() -> _Entries:
    """WideResNet-34-10, on more data 28-10; TRADES, MART and RST without constants in the network, as their code."""
    run = replace(_at(), augment=CropFlip())
    mean, std = _rice.CIFAR10_CONSTANTS
    evaluation = replace(run.evaluation, suite="wu", step_size=None)
    wide = replace(run, model=WideResNet(depth=34, width=10, mean=mean, std=std), evaluation=evaluation)
    bare = replace(wide, model=WideResNet(depth=34, width=10))
    methods = {
        "AT": ("", wide),
        "TRADES": ("beta 6", _rice.trades(bare)),
        "MART": ("beta 6", _rice.mart(bare, beta=6.0)),
        "Pre-training": ("50 epochs", _more_data.tuned(28, _FIRST_STAGE)),
        "RST": ("beta 6, Carmon's images", _rst(replace(bare, model=WideResNet(depth=28, width=10)))),
    }
    yield _more_data.FIRST_STAGE, "ImageNet 32x32", _more_data.first_stage(28)
    for method, (setting, trained) in methods.items():
        made = replace(trained, evaluation=evaluation)
        yield method, setting, made
        yield f"{method}-AWP", ", ".join(filter(None, (setting, "gamma 0.005"))), _awp(made)


def _rst(run: Run) -> Run:
    """Return the run by RST in Carmon's batches."""
    return _more_data.rst(replace(run, training=replace(run.training, batch_size=256)))


def _figure2a() -> _Entries:
    for steps in (1, 5, 10):
        yield f"AT-AWP, K2 {steps}", "gamma 0.005, A 1", replace(_at(), weights=AWP(gamma=5e-3, steps=steps))
    for rounds in (1, 2, 3):
        weights = AWP(gamma=5e-3, alternations=rounds)
        yield f"AT-AWP, A {rounds}", "gamma 0.005, K2 1", replace(_at(), weights=weights)


def _figure2b() -> _Entries:
    """Also figures 2c and 2d, which look at the same networks, and at gamma 0: AT."""
    for method, run in {"AT": _at(), "TRADES": _rice.trades(_at())}.items():
        yield f"{method}", "gamma 0", run
        for gamma in _SIZES:
            yield f"{method}-AWP, gamma {gamma:g}", "measured by L2", _awp(run, gamma)
            norm = replace(run, weights=AWP(gamma=gamma, norm="l1"))
            yield f"{method}-AWP, L1, gamma {gamma:g}", "measured by L1", norm


def _figure3c() -> _Entries:
    """Also figure 3b, which looks at some of the same networks."""
    for gamma in _RANGE:
        yield f"AT-AWP, gamma {gamma:g}", "", _awp(_at(), gamma)
    for gamma in _RANGE:
        yield f"AT-RWP, gamma {gamma:g}", "", replace(_at(), weights=RWP(gamma=gamma))


def _figure3d() -> _Entries:
    """Also of the L2 threat, which is in the paper's appendix F."""
    for norm in _rice.THREATS:
        run = _at(norm=norm)
        yield f"{norm}, AT", "", run
        yield f"{norm}, AT-AWP", "gamma 0.005", _awp(run)
        yield f"{norm}, L1 regularisation", "5e-6", _rice.with_l1(run)
        yield f"{norm}, L2 regularisation", "5e-3", _rice.with_l2(run)
        cutout = Chain(first=CropFlip(mode="reflect"), second=Cutout(size=14))
        yield f"{norm}, cutout", "14 pixels", replace(run, augment=cutout)
        yield f"{norm}, mixup", "alpha 1.4", _rice.with_mixup(run)


def _appendix_c() -> _Entries:
    """Rates as in the authors' code; its other data sets, its L2 and its WideResNet-34-10 are rows of the tables."""
    run = _at()
    mean, std = _rice.CIFAR10_CONSTANTS
    yield "AT, VGG-19", "", replace(run, model=VGG(depth=19, mean=mean, std=std))
    yield "AT, cyclic", "0 to 0.1 in 80 epochs, then to 0", replace(run, training=replace(run.training, lr=Cyclic()))
    yield "AT, cosine", "0.1 to 0", replace(run, training=replace(run.training, lr=Cosine()))
