"""Adversarial inputs as a file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.accuracy import Evaluating, evaluating
from robustscape.evaluation.adversarial import Stored, keep, read
from robustscape.evaluation.subject import drained, subject
from robustscape.runtime import TRUTH
from robustscape.streams import Streams
from robustscape.types import BadInput

THREAT = ThreatModel(eps=0.05)


def _model(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[1].bias -= model(_images()).mean(dim=0)
    return model


def _images(n=30):
    return torch.randint(0, 256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(3)).float() / 255


@pytest.fixture
def made(tmp_path):
    model, x = _model(0), _images()
    y = model(x).argmax(dim=1)
    looked_at = subject(model, x, y, index=torch.arange(100, 130), runtime=TRUTH, data_name="toys", model_name="one")
    found = drained(evaluating(Evaluating(eps=0.05, steps=5, loss_steps=2), looked_at, adversarial=True))
    assert 0.2 < found.robust_error.value < 0.9
    return looked_at, found, keep(tmp_path / "found.safetensors", looked_at, found)


def test_closed_form_a_file_fools_the_same_model_again(made):
    looked_at, found, path = made
    again = drained(evaluating(_only(path), looked_at))
    assert np.array_equal(again.fooled, found.fooled)
    tensors, about = read(path)
    assert about["data"] == "toys" and about["model"] == "one"
    with torch.no_grad():
        wrong = looked_at.model(tensors["x_adv"]).argmax(dim=1) != looked_at.y
    assert torch.equal(wrong, tensors["fooled"])
    assert torch.equal(tensors["x_adv"][~wrong], looked_at.x[~wrong])


def _only(path, **changes):
    return Evaluating(eps=0.05, attacks=(Stored(path=str(path), threat=THREAT),), loss_restarts=0, **changes)


def test_closed_form_transfer_counts_what_fools_the_other_model(made):
    looked_at, found, path = made
    other = replace(looked_at, model=_model(1))
    other = subject(other.model, looked_at.x, looked_at.y, index=looked_at.index, runtime=TRUTH)
    result = drained(evaluating(_only(path, batch_size=7), other))
    with torch.no_grad():
        expected = (other.model(torch.from_numpy(found.x_adv)).argmax(dim=1) != other.y) | (
            other.model(other.x).argmax(dim=1) != other.y
        )
    assert result.fooled.tolist() == expected.tolist()


def test_closed_form_inputs_are_moved_into_a_smaller_ball(made):
    looked_at, _, path = made
    stored = Stored(path=str(path), threat=THREAT).at(0.01)
    x_adv = stored(looked_at.model, looked_at.x, looked_at.y, rng=Streams(index=looked_at.index))
    assert float((x_adv - looked_at.x).abs().max()) <= 0.01 + 1e-7


def test_contract_other_images_and_damaged_files_are_refused(made, tmp_path):
    looked_at, _, path = made
    with pytest.raises(BadInput, match=r"no input for image 0: it holds 30, of toys"):
        drained(evaluating(_only(path), replace(looked_at, index=torch.arange(30))))
    with pytest.raises(BadInput, match="made of other images: toys"):
        drained(evaluating(_only(path), replace(looked_at, x=looked_at.x.roll(1, 0), y=looked_at.y.roll(1, 0))))
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match="cannot be read as a file of adversarial inputs"):
        read(tmp_path / "cut.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="holds no adversarial inputs"):
        read(tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match="there is no file"):
        read(tmp_path / "none.safetensors")


def test_contract_what_was_begun_with_one_file_does_not_go_on_with_another(made, tmp_path):
    looked_at, found, path = made
    one = Stored.of(path, THREAT)
    assert one == Stored.of(path, THREAT) and one.describe() == "Transfer (linf 0.05, inputs of found.safetensors)"
    keep(path, looked_at, replace(found, x_adv=found.x_adv.clip(0.01, 1)))
    assert Stored.of(path, THREAT).checksum != one.checksum
    with pytest.raises(BadInput, match="there is no file"):
        Stored.of(tmp_path / "none.safetensors", THREAT)
