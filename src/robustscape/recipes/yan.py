"""Recipes of Yan et al. 2022 (AT-AMP): tables 1 to 5 and figure 4.

The paper states 200 epochs, learning rate 0.1 with drops after 100 and 150, momentum 0.9, PGD-10, crops and flips. It
leaves open weight decay, batch size, the constants inside the network, AMP's step size and its number of steps: here
5e-4, 128, those of Rice 2020, 1 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from robustscape.data.augment import Chain, CropFlip
from robustscape.data.erase import Cutout
from robustscape.models.wide_resnet import WideResNet
from robustscape.recipes import _more_data, _rice
from robustscape.recipes.row import Row, rows_of
from robustscape.recipes.run import Run
from robustscape.weights.amp import AMP

_FIRST_STAGE = "runs/yan_table3_pre_training_first_stage"


def rows() -> tuple[Row, ...]:
    """Return the rows of Yan 2022."""
    return (
        *rows_of("yan", "table1", _table1()),
        *rows_of("yan", "table2", _table2()),
        *rows_of("yan", "table3", _table3()),
        *rows_of("yan", "table4", _regularised("linf")),
        *rows_of("yan", "table5", _regularised("l2")),
        *rows_of("yan", "figure4", _figure4()),
    )


_Entries = Iterator[tuple[str, str, Run]]


def _at(data: str = "CIFAR-10", norm: str = "linf") -> Run:
    return replace(_rice.at(data, norm), augment=CropFlip())


def _amp(run: Run, delta: float = 0.1) -> Run:
    return replace(run, weights=AMP(delta=delta))


def _wide(run: Run, *, constants: bool = True) -> Run:
    """Return the run of WideResNet-34-10."""
    mean, std = next(of for source, of in _rice.DATA.values() if source == run.data) if constants else (None, None)
    return replace(run, model=WideResNet(depth=34, width=10, mean=mean, std=std))


def _table1() -> _Entries:
    for data in _rice.DATA:
        for norm in _rice.THREATS:
            yield f"{data}, {norm}, AT", "", _at(data, norm)
            yield f"{data}, {norm}, AT-AMP", "delta 0.1", _amp(_at(data, norm))


def _table2() -> _Entries:
    for data in ("CIFAR-10", "CIFAR-100"):
        yield f"{data}, AT", "", _wide(_at(data))
        yield f"{data}, AT-AMP", "delta 0.1", _amp(_wide(_at(data)))


def _table3() -> _Entries:
    """As Wu 2020's table 2: TRADES, MART and RST without constants in the network, RST in Carmon's batches."""
    evaluation = replace(_at().evaluation, suite="wu", step_size=None)
    bare = _wide(_at(), constants=False)
    mixed = replace(bare, training=replace(bare.training, batch_size=256))
    methods = {
        "AT": ("", _wide(_at())),
        "TRADES": ("beta 6", _rice.trades(bare)),
        "MART": ("beta 6", _rice.mart(bare, beta=6.0)),
        "Pre-training": ("50 epochs", _more_data.tuned(34, _FIRST_STAGE)),
        "RST": ("beta 6, Carmon's images", _more_data.rst(mixed)),
    }
    yield _more_data.FIRST_STAGE, "ImageNet 32x32", _more_data.first_stage(34)
    for method, (setting, made) in methods.items():
        run = replace(made, evaluation=evaluation)
        yield method, setting, run
        yield f"{method}-AMP", ", ".join(filter(None, (setting, "delta 0.1"))), _amp(run)


def _regularised(norm: str) -> _Entries:
    run = _at(norm=norm)
    yield "AT + L1", "5e-6", _rice.with_l1(run)
    yield "AT + L2", "5e-3", _rice.with_l2(run)
    yield "AT + mixup", "alpha 1.4", _rice.with_mixup(run)
    yield "AT + cutout", "14 pixels", replace(run, augment=Chain(first=CropFlip(), second=Cutout(size=14)))
    yield "AT", "", run
    yield "AT-AMP", "delta 0.1", _amp(run)


def _figure4() -> _Entries:
    """Also figure 3, whose delta is 0.5."""
    yield "AT-AMP, delta 0", "AT", _at()
    for tenth in range(1, 11):
        yield f"AT-AMP, delta {tenth / 10:g}", "", _amp(_at(), tenth / 10)
