"""Pseudo-labels are what the network says, and labelling goes on where it was stopped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.data.digits import Digits
from robustscape.evaluation.subject import drained
from robustscape.models.lenet import LeNet
from robustscape.recipes import labelling as module
from robustscape.recipes.labelling import labelling
from robustscape.types import Diverged


@pytest.fixture
def images():
    return Digits().load(seed=0).test.take(slice(0, 50))


@pytest.fixture
def model():
    return LeNet(width=2).build(image=(1, 8, 8), classes=10, seed=0).eval()


def test_closed_form_the_likeliest_class_and_its_probability(images, model, tmp_path):
    made = labelling(model, images, batch_size=16, partial=tmp_path / "p")
    assert [next(made) for _ in range(4)] == [(16, 50), (32, 50), (48, 50), (50, 50)]
    with pytest.raises(StopIteration) as end:
        next(made)
    found, wanted = end.value.value, model(images.pixels()).softmax(1).detach()
    assert found.y.tolist() == wanted.argmax(1).tolist() and found.y.dtype == np.int64
    np.testing.assert_allclose(found.confidence, wanted.amax(1).numpy(), rtol=1e-5)
    assert not (tmp_path / "p").exists()


def test_end_to_end_what_was_stopped_goes_on_to_the_same_bits(images, model, tmp_path, monkeypatch):
    whole = drained(labelling(model, images, batch_size=16, partial=tmp_path / "whole"))
    monkeypatch.setattr(module, "_SECONDS", -1.0)
    stopped = labelling(model, images, batch_size=16, partial=tmp_path / "p")
    next(stopped)
    next(stopped)
    stopped.close()
    rest = labelling(model, images, batch_size=16, partial=tmp_path / "p")
    assert next(rest) == (48, 50)
    found = drained(rest)
    assert found.y.tobytes() == whole.y.tobytes() and found.confidence.tobytes() == whole.confidence.tobytes()
    other = LeNet(width=2).build(image=(1, 8, 8), classes=10, seed=1).eval()
    assert next(labelling(other, images, batch_size=16, partial=tmp_path / "p")) == (16, 50)
    changed = replace(images, x=255 - images.x)
    assert next(labelling(model, changed, batch_size=16, partial=tmp_path / "p")) == (16, 50)
    (tmp_path / "p").write_bytes(b"half")
    assert next(labelling(model, images, batch_size=16, partial=tmp_path / "p")) == (16, 50)


def test_contract_outputs_that_are_not_finite_are_refused(images, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(model[1].bias, torch.nan)
    with pytest.raises(Diverged, match="not finite"):
        drained(labelling(model, images, batch_size=16, partial=tmp_path / "p"))
