import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.connectivity import Connectivity
from robustscape.landscape.curve import CurveTraining, estimated, placed
from robustscape.landscape.runner import measure, measuring
from robustscape.runtime import TRUTH
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput

ATTACK = FGSM(threat=ThreatModel(eps=0.03))
QUICK = {"attack": ATTACK, "training_attack": ATTACK, "positions": 5, "curves": 1}


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def linear(seed):
    made = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double().eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made[1].weight.copy_(torch.randn(3, 16, generator=g))
        made[1].bias.copy_(torch.randn(3, generator=g))
    return made


def conv():
    """A small network with BatchNorm whose running statistics are those of some batch."""

    def make():
        model = nn.Sequential(
            *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3)),
        )
        with torch.no_grad():
            model.train()(torch.rand(30, 1, 4, 4))
        return model.eval()

    return seeded(make)


def looked_at(model, n=24, **settings):
    g = torch.Generator().manual_seed(1)
    y = torch.arange(n) % 3
    x = 0.3 * torch.rand(n, 1, 4, 4, generator=g)
    for k in range(3):
        x[y == k, :, k] += 0.6
    return subject(model, x, y, seed=5, batch=10, runtime=TRUTH, **settings)


def fitted(model):
    made = looked_at(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(made.x.to(next(model.parameters()).dtype)), made.y).backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model


def stored(model, path):
    save_weights(model, path, {})
    return str(path)


def test_closed_form_a_convex_loss_has_no_barrier_and_its_curve_lies_below_the_chord(tmp_path):
    other = stored(linear(2), tmp_path / "other.safetensors")
    made = looked_at(linear(1))
    attack = PGD(threat=ThreatModel(eps=0.03), steps=8, result="best_loss")
    training = CurveTraining(epochs=10, batch_size=4, lr=0.1)
    settings = Connectivity(
        other=other, curves=2, positions=5, attack=attack, training_attack=attack, training=training
    )
    found = measure(settings, made)
    assert found.paths == ("line", "curve 1", "curve 2") and found.n == found.trained_n == 12
    for losses in (found.clean_loss, found.robust_loss):
        chord = losses[:, :1] + found.t * (losses[:, -1:] - losses[:, :1])
        assert (losses[:, 1:-1] < chord[:, 1:-1]).all()
        assert (losses[1:, 2] < losses[0, 2]).all()  # the curves end where training took them: lower
    assert found.robust_barrier.tolist() == found.clean_barrier.tolist() == [0.0] * 3
    assert (found.robust_average[1:] < found.robust_average[0]).all() and (found.length[1:] >= found.length[0]).all()
    assert found.curve_barrier.value == 0 and found.aligned_curve_barrier is None
    a, b = (torch.cat([p.detach().flatten() for p in linear(seed).parameters()]) for seed in (1, 2))
    assert found.length[0] == pytest.approx(float((a - b).norm()), rel=1e-12)
    # the ends are the two networks, on the examples that were not trained on
    assert found.own_clean_loss == pytest.approx(found.clean_loss[0, [0, -1]], rel=1e-14)
    everyone = measure(Connectivity(other=other, order=1, train_share=0, statistics="interpolate", **QUICK), made)
    assert (everyone.n, everyone.trained_n, everyone.curve_barrier) == (24, 0, None)
    for place, seed in ((0, 1), (-1, 2)):
        loss = F.cross_entropy(linear(seed)(made.x), made.y).item()
        assert everyone.clean_loss[0, place] == pytest.approx(loss, rel=1e-13)


def test_closed_form_barriers_and_mode_connectivity_by_hand():
    from robustscape.landscape._barriers import average, barrier, mode_connectivity

    t = np.array([0, 0.25, 0.5, 0.75, 1.0])
    losses = np.array([[1.0, 3.0, 2.0, 2.0, 2.0], [1.0, 0.5, 0.0, 1.0, 3.0]])
    assert barrier(losses, t) == pytest.approx([1.75, 0.0])
    assert mode_connectivity(losses) == pytest.approx([-1.5, 2.0])
    speeds = np.array([[1.0, 1, 1, 1, 1], [0.0, 0, 0, 0, 0]])
    assert average(losses, speeds, t) == pytest.approx([(0.5 + 3 + 2 + 2 + 1) / 4, (0.5 + 0.5 + 1 + 1.5) / 4])


def test_closed_form_alignment_takes_away_the_barrier_of_a_permuted_copy():
    made = looked_at(fitted(conv()))
    found = measure(Connectivity(align=True, training=CurveTraining(epochs=2), **QUICK), made)
    assert found.paths == ("line", "curve 1", "aligned line", "aligned curve 1")
    assert found.other.startswith("itself")
    assert found.robust_barrier[0] > 0.05
    assert found.robust_barrier[2] == pytest.approx(0, abs=1e-6) and found.length[2] == 0
    assert found.clean_loss[2] == pytest.approx([found.clean_loss[2, 0]] * 5, rel=1e-6)
    assert found.clean_loss[0, 0] == pytest.approx(found.clean_loss[0, -1], rel=1e-5)


def test_end_to_end_a_trained_curve_goes_around_the_barrier_of_the_line():
    made = looked_at(fitted(conv()))
    training = CurveTraining(epochs=60, batch_size=24, lr=0.1)
    found = measure(Connectivity(train_share=1, training=training, **QUICK), made)
    assert found.n == found.trained_n == 24
    assert found.robust_barrier[1] < 0.5 * found.robust_barrier[0]
    assert found.robust_average[1] < found.robust_average[0]


def test_closed_form_statistics_at_the_ends():
    model = conv()
    made = looked_at(model)
    interpolated = measure(Connectivity(order=1, statistics="interpolate", **QUICK), made)
    assert interpolated.clean_loss[0, [0, -1]] == pytest.approx(interpolated.own_clean_loss, rel=1e-12)
    again = measure(Connectivity(order=1, train_share=1, **QUICK), made)
    assert abs(again.clean_loss[0, 0] - again.own_clean_loss[0]) > 1e-3
    own = {n: t for n, t in model.state_dict().items() if t.is_floating_point()}
    with placed(model, estimated(model, own, made.x, 128)):  # a network whose own statistics are of these images
        same = measure(Connectivity(order=1, train_share=1, **QUICK), made)
    assert same.clean_loss[0, [0, -1]] == pytest.approx(same.own_clean_loss, rel=1e-5)
    assert (again.statistics, interpolated.statistics) == ("re-estimate", "interpolate")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"objective": "x"}, "robust, clean"),
        ({"statistics": "keep"}, "re_estimate"),
        ({"order": 0}, "order"),
        ({"curves": 0}, "curves"),
        ({"positions": 2}, "positions"),
        ({"train_share": 1.5}, "train_share"),
        ({"train_share": 0.0}, "need examples"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        Connectivity(**wrong)


def test_contract_what_cannot_be_connected_is_refused_first(tmp_path):
    made = looked_at(conv())

    def refused(says, at=made, **settings):
        with pytest.raises(BadInput, match=says):
            next(step for step in measuring(Connectivity(**QUICK | settings), at) if step[0])

    refused("neither a .safetensors file nor a run", other=str(tmp_path))
    refused("another architecture", other=stored(linear(1), tmp_path / "other.safetensors"))
    refused("too few", at=looked_at(conv(), n=1))
    refused("at least 2", training=CurveTraining(batch_size=1))
    refused(
        "that may change places",
        at=looked_at(linear(1)),
        other=stored(linear(2), tmp_path / "l.safetensors"),
        align=True,
    )


def test_contract_runs_of_other_data_or_networks_are_refused(tmp_path):
    def run(name, *, data="data.mnist:MNIST", activation="relu", classes=("0", "1", "2")):
        folder = tmp_path / name
        stored(conv(), folder / "checkpoints" / "last.safetensors")
        network = {"type": "models.lenet:LeNet", "activation": activation}
        plain = {"run": {"data": {"type": data}, "model": network}, "name": name, "image": [1, 4, 4]}
        (folder / "run.json").write_text(json.dumps(plain | {"schema": 2, "classes": classes, "provenance": {}}))
        return str(folder)

    made = looked_at(conv(), model_name=f"{run('mine')}, last")
    settings = QUICK | {"order": 1}
    whole = measure(Connectivity(other=run("same"), **settings), made)
    assert whole.other.endswith("last.safetensors") and whole.length.tolist() == [0.0]
    for other, says in (
        (run("classes", classes=("a", "b")), "another data set"),
        (run("data", data="data.fashion_mnist:FashionMNIST"), "another data set"),
        (run("network", activation="gelu"), "another network"),
    ):
        with pytest.raises(BadInput, match=says):
            measure(Connectivity(other=other, **settings), made)


def test_contract_another_network_that_changes_on_the_way_is_refused(tmp_path):
    path, made = tmp_path / "other.safetensors", looked_at(conv())
    stored(conv(), path)
    steps = measuring(Connectivity(other=str(path), order=1, **QUICK), made)
    assert next(step for step in steps if step[0] == 2) == (2, 6)
    stored(fitted(conv()), path)
    with pytest.raises(BadInput, match="changed while"):
        list(steps)


def test_contract_files_of_other_data_or_networks_are_refused(tmp_path):
    """A file says what it is by its header, and where it lies in its run by that."""

    def file(name, *, data="data.mnist:MNIST", activation="relu", classes=("a", "b", "c"), run=True):
        path = tmp_path / name / "checkpoints" / "last.safetensors"
        network = {"type": "models.lenet:LeNet", "activation": activation}
        about = {"image": [1, 4, 4], "classes": classes}
        save_weights(conv(), path, about | {"architecture": network, "epoch": 1})
        if run:
            plain = {"run": {"data": {"type": data}, "model": network}, "name": name, "schema": 2, "provenance": {}}
            (tmp_path / name / "run.json").write_text(json.dumps(plain | about))
        return str(path)

    mine = file("mine")
    settings = Connectivity(**QUICK | {"order": 1}, other=file("same"))
    fashion = "data.fashion_mnist:FashionMNIST"
    for name in (mine, f"{tmp_path / 'mine'}, last"):
        made = looked_at(conv(), model_name=name, classes=("a", "b", "c"))
        assert measure(settings, made).length.tolist() == [0.0]
        for other, says in (
            (file("classes", classes=("d", "e", "f"), run=False), "3 classes .* another data set"),
            (file("data", data=fashion), "another data set: type is data.fashion"),
            (file("network", activation="silu", run=False), "another network: activation is silu, here relu"),
        ):
            with pytest.raises(BadInput, match=says):
                measure(replace(settings, other=other), made)
    # of a network from elsewhere neither the names of its classes nor its data are known
    from_elsewhere = looked_at(conv())
    assert measure(settings, from_elsewhere).length.tolist() == [0.0]
    with pytest.raises(BadInput, match=r"2 classes .* another data set"):
        measure(replace(settings, other=file("fewer", classes=("a", "b"))), from_elsewhere)
