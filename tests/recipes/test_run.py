"""Settings of a Run that do not go together: refused before anything is computed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustscape.attacks.pgd import PGD
from robustscape.cli import main
from robustscape.evaluation.accuracy import Evaluating
from robustscape.landscape.flatness import AverageFlatness
from robustscape.objectives.natural import Natural
from robustscape.recipes.digits import digits_at
from robustscape.recipes.execute import train
from robustscape.recipes.run import Run, Watch
from robustscape.training.optimizers.entropy_sgd import EntropySGD
from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.cosine import Cosine
from robustscape.training.schedules.cyclic import Cyclic
from robustscape.training.schedules.linear import Linear
from robustscape.training.schedules.periodic import Periodic
from robustscape.training.schedules.piecewise import Piecewise
from robustscape.training.schedules.rise import Rise
from robustscape.types import BadInput
from robustscape.weights.awp import AWP

APART = Evaluating(norm="l1", eps=1.0, suite="autoattack")
WATCH = Watch(measurements=(AverageFlatness(attack=PGD(steps=1, result="best_loss")),))


def _run(training: dict | None = None, **changes) -> Run:
    run = replace(digits_at(), **changes)
    return replace(run, training=replace(run.training, epochs=2, **(training or {})))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (_run({"eps": Rise()}, objective=Natural()), r"training\.eps .* Natural has none; set it back to constant"),
        (_run({"eps": Constant(warmup=0.1)}, objective=Natural()), r"training\.eps is of the inner attack"),
        (_run({"attack_mode": "train"}, objective=Natural()), r"training\.attack_mode .* set it back to eval"),
        (
            _run({"eps": Linear(start=0.0, end=20.0)}),
            r"rises to 20 times the attack's own eps: eps=2 is outside \[0, 1\]",
        ),
        (_run({"select": "robust"}, objective=Natural()), r"neither the objective nor tracking has an attack"),
        (
            _run({"eps": Cosine()}),
            r"eps is Cosine, which ends at 0 times .*did you mean --training\.eps rise",
        ),
        (_run({"eps": Linear()}), r"training\.eps is Linear, which ends at 0 times"),
        (_run({"eps": Linear(start=0.0)}), r"training\.eps is Linear, which ends at 0 times"),
        (_run({"eps": Cyclic(cycles=3)}), r"training\.eps is Cyclic, which ends at 0 times"),
        (_run({"eps": Piecewise()}), r"training\.eps is Piecewise, which ends at 0\.01 times"),
        (_run({"eps": Periodic(of=Cosine())}), r"training\.eps is Periodic, which ends at 0 times"),
        (_run(weights=AWP(warmup=2.0)), r"warmup is 2 epochs .* is 2, so AWP would never act; lower"),
        (_run(evaluation=APART, watch=WATCH), r"watch\.measurements flatness .*norm l1 .*eps 1: PGD knows"),
        (_run({"select": "flatness"}, evaluation=APART), r"training\.select flatness is made under .*norm l1"),
    ],
    ids=lambda value: "" if isinstance(value, Run) else value[:30],
)
def test_contract_what_has_no_meaning_together_is_refused_before_anything_is_there(wrong, sentence, tmp_path):
    with pytest.raises(BadInput, match=sentence):
        next(train(wrong, tmp_path / "run", name="r"))
    assert not (tmp_path / "run").exists()


def test_contract_what_has_a_meaning_is_not_refused(capsys):
    for words in (
        "--objective natural --training.track-attack pgd --training.select robust",
        "--weights awp --weights.warmup 1 --training.epochs 2",
        "--evaluation.norm l2 --evaluation.eps 0.5 --watch.measurements flatness --training.select flatness",
        "--objective noise --training.eps rise",
        "--training.eps linear --training.eps.start 0 --training.eps.end 2",
        "--training.eps linear --training.eps.end 0.02",
        "--training.eps periodic --training.eps.of rise --training.schedules epoch",
        "--training.eps cosine --training.eps.end 0.5",
    ):
        assert main(["train", "digits_at", *words.split(), "--dry-run"]) == 0, capsys.readouterr().err


def test_contract_a_step_on_more_batches_than_an_epoch_has_is_refused_before_anything_is_there(tmp_path):
    """The digits have 1,247 training images: with 250 a batch, 5."""
    run = _run({"batch_size": 250, "optimizer": EntropySGD(steps=6)})
    with pytest.raises(BadInput, match=r"of EntropySGD takes 6 batches, and an epoch has 5, .*; lower training\.optim"):
        next(train(run, tmp_path / "run", name="r"))
    assert not (tmp_path / "run").exists()
    whole = replace(run, training=replace(run.training, epochs=1, track=0, optimizer=EntropySGD(steps=5)))
    assert len(list(train(whole, tmp_path / "run", name="r"))) == 2  # a step and an epoch
