import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.directions.adversarial import HeldLoss
from robustscape.landscape.directions.between import placed, read_state
from robustscape.landscape.directions.family import Facts, Family
from robustscape.landscape.operator import worst_inputs
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput
from robustscape.weights.awp import AWP

ATTACK = PGD(threat=ThreatModel(eps=0.05), steps=3, result="best_loss")


def network(seed=0, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 3))
        model(torch.rand(20, 1, 3, 3))
    return model.eval().to(dtype)


def looked_at(model, n=11):
    g = torch.Generator().manual_seed(1)
    return subject(
        model, torch.rand(n, 1, 3, 3, generator=g, dtype=torch.float64), torch.arange(n) % 3, seed=5, batch=4
    )


def family(along, *, count=2, scheme=None, other="", adversary=None):
    adversary = adversary or AWP(gamma=0.01, steps=3)
    return Family(
        along=along, scheme=scheme, other=other, attack=ATTACK, adversary=adversary, count=count, name="slices"
    )


def a_run(folder, ways):
    """A run directory whose checkpoints are the network plus the given multiples of a few directions."""
    model = network()
    g = torch.Generator().manual_seed(3)
    axes = [
        {n: torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in model.named_parameters()}
        for _ in range(len(ways[0]))
    ]
    for number, multiples in enumerate(ways):
        there = network()
        with torch.no_grad():
            for name, value in there.named_parameters():
                value.add_(sum(m * axis[name] for m, axis in zip(multiples, axes, strict=True)))
        save_weights(there, folder / "checkpoints" / f"epoch-{number + 1:04d}.safetensors", {})
    return axes


def flat(params):
    return torch.cat([value.flatten() for value in params.values()])


def test_closed_form_components_of_a_path_in_a_plane(tmp_path):
    ways = [(5.0, 0.0), (3.0, 1.0), (1.5, -0.5), (0.25, 0.125)]
    axes = a_run(tmp_path, ways)
    made = looked_at(network())
    found = family("path", other=str(tmp_path)).find(made, [0, 1])
    facts = family("path", other=str(tmp_path)).facts([d.facts for d in found])

    steps = torch.tensor(ways, dtype=torch.float64) @ torch.stack([flat(axis) for axis in axes])
    values = torch.linalg.svdvals(steps)
    assert facts.explained == pytest.approx((values[:2] ** 2 / (values**2).sum()).tolist(), rel=1e-10)
    assert sum(facts.explained) == pytest.approx(1, abs=1e-12)
    # The coordinates give the checkpoints back, and reach 1 at the farthest along each direction.
    coordinates = torch.tensor(facts.path, dtype=torch.float64)
    vectors = torch.stack([flat(d.vector) for d in found])
    torch.testing.assert_close(coordinates @ vectors, steps, rtol=0, atol=1e-10)
    assert coordinates.max(dim=0).values.tolist() == pytest.approx([1, 1], abs=1e-12)
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0, abs=1e-9)
    assert facts.checkpoints == ("epoch-0001", "epoch-0002", "epoch-0003", "epoch-0004")


def test_contract_a_path_that_is_too_short_or_too_flat_is_refused(tmp_path):
    a_run(tmp_path, [(2.0,), (1.0,)])
    made = looked_at(network())
    with pytest.raises(BadInput, match="fewer than 2 directions"):
        family("path", other=str(tmp_path)).find(made, [0, 1])
    with pytest.raises(BadInput, match="keep_every"):
        family("path", count=3, other=str(tmp_path)).find(made, [0])


def test_reference_eigenvectors_are_those_of_the_dense_hessian():
    made = looked_at(network())
    found = family("clean_hessian").find(made, [0, 1])
    names = list(found[0].vector)
    assert names == ["0.weight", "0.bias", "4.weight", "4.bias"]
    here = {name: value.detach() for name, value in made.model.named_parameters()}

    def loss(w):
        parts = w.split([here[name].numel() for name in names])
        moved = {name: part.view(here[name].shape) for name, part in zip(names, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(made.model, {**here, **moved}, (made.x,)), made.y)

    dense = torch.autograd.functional.hessian(loss, torch.cat([here[name].flatten() for name in names]))
    values, vectors = torch.linalg.eigh(dense)
    for number, direction in enumerate(found):
        assert direction.facts["eigenvalue"] == pytest.approx(float(values[-1 - number]), rel=1e-5)
        assert abs(float(flat(direction.vector) @ vectors[:, -1 - number])) == pytest.approx(1, abs=1e-5)
        assert direction.facts["direction_norm"] == pytest.approx(1, rel=1e-12)
        assert direction.facts["converged"] and direction.facts["residual"] <= 1e-3 * direction.facts["eigenvalue"]


def test_closed_form_one_adversarial_step_is_the_gradient_scaled_to_each_layer():
    made = looked_at(network())
    (direction,) = family("adversarial", adversary=AWP(gamma=0.01, steps=1)).find(made, [0])
    assert list(direction.vector) == ["0.weight", "4.weight"]  # AWP moves no biases
    x_adv = worst_inputs(made, ATTACK, "slices")
    slopes = torch.autograd.grad(
        F.cross_entropy(made.model(x_adv), made.y), [made.model[0].weight, made.model[4].weight]
    )
    for slope, w, d in zip(
        slopes, (made.model[0].weight, made.model[4].weight), direction.vector.values(), strict=True
    ):
        torch.testing.assert_close(d, (slope / slope.norm() * w.norm()).detach(), rtol=1e-9, atol=0)


def test_contract_further_adversarial_directions_start_elsewhere_and_raise_the_loss():
    made = looked_at(network())
    first, second = family("adversarial").find(made, [0, 1])
    cosine = float(flat(first.vector) @ flat(second.vector)) / (
        first.facts["direction_norm"] * second.facts["direction_norm"]
    )
    assert 0.2 < cosine < 1 - 1e-6
    loss = HeldLoss(made, made.x)
    here = float(loss.value())
    for direction in (first, second):
        with direction.place(0.05):
            assert float(loss.value()) > here


def test_reference_gradient_of_the_held_loss_is_that_of_one_batch():
    made = looked_at(network())
    names = [name for name, _ in made.model.named_parameters()]
    whole = torch.autograd.grad(F.cross_entropy(made.model(made.x), made.y), list(made.model.parameters()))
    loss = HeldLoss(made, made.x)
    for found, wanted in zip(loss.gradient(names).values(), whole, strict=True):  # batches of 4, 4 and 3
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)
    assert float(loss.value()) == pytest.approx(F.cross_entropy(made.model(made.x), made.y).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_form_the_ends_of_a_line_are_both_models_to_the_bit(tmp_path, dtype):
    here, there = network(0, dtype), network(1, dtype)
    save_weights(there, tmp_path / "there.safetensors", {})
    state = read_state(here, tmp_path / "there.safetensors")
    before = {name: value.clone() for name, value in here.state_dict().items()}
    x = torch.rand(5, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=dtype)
    with torch.no_grad():
        own = here(x)
        with placed(here, state, 0.0):
            assert torch.equal(here(x), own)
        with placed(here, state, 1.0):
            assert torch.equal(here(x), there(x))
        with placed(here, state, 0.5):
            half = (before["1.running_mean"] + there.state_dict()["1.running_mean"]) / 2
            torch.testing.assert_close(here[1].running_mean, half)
    assert all(torch.equal(value, before[name]) for name, value in here.state_dict().items())


def test_contract_unit_length_without_normalisation():
    made = looked_at(network())
    (direction,) = family("random", scheme="none").find(made, [1])
    assert direction.facts["direction_norm"] == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"along": "sideways"}, "sideways"),
        ({"along": "random", "scheme": "x"}, "filter, layer, none"),
        ({"along": "other"}, "needs other"),
        ({"along": "path"}, "needs other, a run directory"),
        ({"along": "random", "other": "runs/b"}, "did you mean along=other"),
        ({"along": "other", "other": "runs/b", "scheme": "filter"}, "leave out scheme"),
    ],
)
def test_contract_settings_that_cannot_be_meant_are_refused(wrong, says):
    with pytest.raises(BadInput, match=says):
        family(**wrong)


def test_contract_other_weights_that_do_not_fit_are_refused(tmp_path):
    made = looked_at(network())
    with pytest.raises(BadInput, match=r"neither a \.safetensors file nor a run directory"):
        family("other", other=str(tmp_path)).find(made, [0])
    save_weights(nn.Linear(9, 3), tmp_path / "linear.safetensors", {})
    with pytest.raises(BadInput, match="another architecture"):
        family("other", other=str(tmp_path / "linear.safetensors")).find(made, [0])
    (tmp_path / "broken.safetensors").write_text("x")
    with pytest.raises(BadInput, match="cut short"):
        family("other", other=str(tmp_path / "broken.safetensors")).find(made, [0])


@pytest.mark.parametrize("along", ["random", "hessian", "clean_hessian", "adversarial", "path", "other"])
def test_contract_directions_are_plain_known_and_found_without_a_trace(along, tmp_path):
    a_run(tmp_path, [(2.0, 0.0), (1.0, 1.0)])
    save_weights(network(1), tmp_path / "checkpoints" / "last.safetensors", {})
    made = looked_at(network())
    made.model[1].train()
    made.model[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    of = family(along, other=str(tmp_path) if along in ("path", "other") else "")
    found, again = of.find(made, [0, 1]), of.find(made, [1])
    assert torch.equal(flat(found[1].vector), flat(again[0].vector))
    facts = of.facts([json.loads(json.dumps(d.facts)) for d in found])
    assert isinstance(facts, Facts) and facts.along == along
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert made.model[1].training and not made.model[0].training
    assert all(p.grad is None for p in made.model.parameters()) and not made.model[0].bias.requires_grad
