"""Runs on soft labels and mixed images: refused before anything is computed, or gone on with to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from robustscape.attacks.friendly import Friendly
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.cli import main
from robustscape.data.augment import Chain
from robustscape.data.autoaugment import AutoAugment
from robustscape.data.targets import Targets
from robustscape.objectives.at import AT
from robustscape.objectives.fat import FAT
from robustscape.objectives.mart import MART
from robustscape.recipes.digits import digits_at
from robustscape.recipes.execute import train, train_several
from robustscape.recipes.run import Run
from robustscape.training.loop import Step
from robustscape.types import BadInput

SOFT = [Targets(smoothing=0.1), Targets(noise=0.3), Targets(mixup=1.4)]


def _run(objective=None, **changes) -> Run:
    run = digits_at()
    attack = PGD(threat=ThreatModel(eps=0.2), steps=2)
    training = replace(run.training, epochs=1, track=20, checkpoint_seconds=0.0)
    model = replace(run.model, width=2)
    return replace(run, objective=objective or AT(attack=attack), model=model, training=training, **changes)


@pytest.mark.parametrize("targets", SOFT, ids=["smoothing", "noise", "mixup"])
@pytest.mark.parametrize("objective", [MART(), FAT(form="mart")], ids=["mart", "fat"])
def test_contract_labels_alone_refuse_soft_ones_before_anything_is_there(objective, targets, tmp_path):
    out = tmp_path / "run"
    for events in (
        train(_run(objective, targets=targets), out, name="digits_at"),
        (event for _, event in train_several([(_run(objective, targets=targets), out)], name="digits_at")),
    ):
        with pytest.raises(BadInput, match=r"one label for each image.*leave targets.* at 0"):
            next(events)
    assert not out.exists()


def test_contract_attacks_that_need_a_label_refuse_mixed_images_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match=r"cannot attack images that are mixed.*targets.mixup=1\.4"):
        next(train(_run(FAT(), targets=Targets(mixup=1.4)), tmp_path / "run", name="digits_at"))
    with pytest.raises(BadInput, match=r"set targets\.mixup to 0"):
        next(train(_run(AT(attack=Friendly()), targets=Targets(mixup=1.4)), tmp_path / "run", name="digits_at"))
    assert not (tmp_path / "run").exists()
    assert main(["train", "digits_at", "--objective", "mart", "--targets.noise", "0.3", "--dry-run"]) == 2


def _weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "checkpoints").glob("*.safetensors"))}


def test_end_to_end_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    run = _run(targets=Targets(noise=0.2, smoothing=0.1, mixup=1.4), augment=Chain(first=AutoAugment()))
    list(train(run, tmp_path / "whole", name="digits_at"))
    events = train(run, tmp_path / "stopped", name="digits_at")
    assert sum(isinstance(next(events), Step) for _ in range(11)) == 11
    events.close()
    list(train(run, tmp_path / "stopped", name="digits_at"))
    whole, stopped = _weights(tmp_path / "whole"), _weights(tmp_path / "stopped")
    assert whole["last.safetensors"] == stopped["last.safetensors"]
    list(train(replace(run, targets=Targets()), tmp_path / "plain", name="digits_at"))
    assert _weights(tmp_path / "plain")["last.safetensors"] != whole["last.safetensors"]
