from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.evaluation.subject import subject
from robustscape.landscape.runner import measure
from robustscape.landscape.weights import Weights
from robustscape.runtime.memory import Parts
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput


class Planted(nn.Module):
    """A network with units that never fire, planted in a module, in a module used twice, and in a function call."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.act = nn.ReLU()
        self.one = nn.Linear(16, 5)
        self.two = nn.Linear(5, 6)
        self.last = nn.Linear(6, 3)
        with torch.no_grad():
            self.conv.bias[[0, 2]] = -100
            self.conv.bias[[1, 3]] = 100
            self.one.bias[:] = 1e4
            self.one.bias[4] = -1e6
            self.two.bias[:] = 1e6
            self.two.bias[:3] = -1e6

    def forward(self, x):
        h = self.act(self.conv(x)).flatten(1)
        h = self.act(self.one(h))
        return self.last(F.relu(self.two(h)))


def looked_at(model, n=7, batch=3):
    return subject(model, torch.rand(n, 1, 4, 4), torch.arange(n) % 3, batch=batch, split="test")


def test_closed_form_planted_dead_units_are_found():
    made = looked_at(Planted())
    found = measure(Weights(), made)
    assert found.activations == ("act", "act (2)", "Planted")
    assert found.units.tolist() == [4, 5, 6] and found.dead.tolist() == [2, 1, 3]
    assert found.active == pytest.approx([0.5, 0.8, 0.5])
    assert found.dead_share == pytest.approx(6 / 15)
    assert found.fires_at_most == pytest.approx(1 - 0.05 ** (1 / 7)) and (found.n, found.split) == (7, "test")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())


def test_closed_form_a_unit_that_fires_once_lives_whatever_the_batches():
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2), nn.ReLU(inplace=True), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[1].weight[:] = 1
        model[1].bias[:] = torch.tensor([-0.85, -0.95])
    x = torch.arange(10, dtype=torch.float64).view(10, 1, 1, 1) / 10
    for batch, parts in ((10, None), (3, None), (4, Parts(1))):
        made = subject(model, x, torch.arange(10) % 2, batch=batch)
        found = measure(Weights(), made if parts is None else replace(made, parts=parts))
        assert found.dead.tolist() == [1] and found.active.tolist() == [1 / 20]


def test_closed_form_channels_of_sequences_stand_last():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)  # (N, T, D)
            return F.relu(self.w * tokens - torch.tensor([2.0, -2.0])).mean(1)

    made = subject(Tokens(), torch.rand(3, 2, 2, 2), torch.tensor([0, 1, 0]))
    found = measure(Weights(), made)
    assert (found.units.tolist(), found.dead.tolist()) == ([2], [1])


def test_contract_networks_without_relus_have_none():
    found = measure(Weights(), looked_at(nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.GELU())))
    assert found.activations == () and found.dead_share is None and len(found.dead) == 0


def test_closed_form_norms_and_distances(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)).double()
    save_weights(model, tmp_path / "start.safetensors", {})
    with torch.no_grad():
        model[1].weight *= 3
        model[1].bias[:] = torch.tensor([1.0, 2.0, 2.0])
        model[2].bias += 2
    found = measure(Weights(start=str(tmp_path / "start.safetensors")), looked_at(model))
    at = dict(zip(found.layers, range(4), strict=True))
    weight, bn_bias, bn_weight = at["1.weight"], at["2.bias"], at["2.weight"]
    assert found.sizes.tolist() == [48, 3, 3, 3] and found.start == "start.safetensors"
    assert found.norm[at["1.bias"]] == pytest.approx(3) and found.kurtosis[at["1.bias"]] == pytest.approx(1.5)
    assert found.distance[weight] == pytest.approx(2 / 3 * float(model[1].weight.detach().norm()), rel=1e-12)
    assert found.relative_distance[weight] == pytest.approx(2) and found.cosine[weight] == pytest.approx(1)
    assert found.relative_distance[bn_bias] == np.inf and np.isnan(found.cosine[bn_bias])
    assert found.distance[bn_weight] == 0 == found.relative_distance[bn_weight]
    assert np.isnan(found.kurtosis[bn_weight])
    assert found.whole_norm == pytest.approx(sum(float(p.detach().square().sum()) for p in model.parameters()) ** 0.5)
    assert found.whole_distance == pytest.approx(np.sqrt((found.distance**2).sum()))


def test_end_to_end_of_a_run_the_first_kept_checkpoint_is_the_start(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    for epoch in (2, 4):
        with torch.no_grad():
            model[1].bias[:] = epoch
        save_weights(model, tmp_path / "run" / "checkpoints" / f"epoch-{epoch:04d}.safetensors", {})
    found = measure(Weights(start=str(tmp_path / "run")), looked_at(model))
    assert found.start == "run epoch-0002" and found.whole_distance == pytest.approx(2 * 3**0.5)


def test_contract_without_a_start_there_are_no_distances():
    found = measure(Weights(), looked_at(nn.Sequential(nn.Flatten(), nn.Linear(16, 3))))
    assert found.whole_distance is None and found.start == ""
    assert len(found.distance) == len(found.relative_distance) == len(found.cosine) == 0


def test_contract_starts_that_cannot_be_meant_are_refused(tmp_path):
    made = looked_at(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    save_weights(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), tmp_path / "other.safetensors", {})
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name, says in {
        "other.safetensors": "architecture",
        "bad.safetensors": "safetensors",
        "run": "keep-every",
        "none": "neither",
    }.items():
        with pytest.raises(BadInput, match=says):
            Weights(start=str(tmp_path / name)).at(made, "layers")


def test_contract_a_start_of_another_data_set_is_refused(tmp_path):
    made = looked_at(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    about = {"architecture": {"type": "x:X"}, "image": [1, 4, 4], "classes": ["0", "1", "2"]}
    for name, changes in {"same": {}, "other": {"image": [4, 2, 2]}}.items():
        save_weights(made.model, tmp_path / f"{name}.safetensors", about | changes)
    assert measure(Weights(start=str(tmp_path / "same.safetensors")), made).whole_distance == 0
    with pytest.raises(BadInput, match=r"start=.*another data set"):
        measure(Weights(start=str(tmp_path / "other.safetensors")), made)
