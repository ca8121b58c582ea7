from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.subject import subject
from robustscape.landscape.operator import hessian, worst_inputs
from robustscape.landscape.runner import measure
from robustscape.landscape.spectrum import Spectrum, top
from robustscape.results import load, save
from robustscape.runtime import TRUTH
from robustscape.types import BadInput, NotApplicable

ATTACK = PGD(threat=ThreatModel(eps=0.05), steps=3, result="best_loss")


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3, dtype=torch.float64)
        ).double()
        model(torch.rand(30, 1, 6, 6, dtype=torch.float64))
    return model.eval()


def looked_at(batch=5, model=None):
    x = torch.rand(12, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return subject(model or network(), x, torch.arange(12) % 3, seed=3, batch=batch, runtime=TRUTH, split="train")


def matrix(operator):
    return torch.stack([operator(e) for e in torch.eye(operator.size, dtype=torch.float64)])


@pytest.mark.slow
def test_reference_both_ends_of_both_losses_in_all_coordinates(tmp_path):
    made = looked_at()
    settings = Spectrum(
        attack=ATTACK, k=4, bottom=2, coordinates=("raw", "filter"), scope="layers", tolerance=1e-4, random_weights=2
    )
    found = measure(settings, made)
    assert found.losses == ("clean", "robust") and found.coordinates == ("raw", "filter")
    assert found.curvature == "held" and found.split == "train" and found.n == 12
    held = worst_inputs(made, ATTACK, "spectrum")
    for row, x in enumerate((made.x, held)):
        for column, coordinates in enumerate(found.coordinates):
            exact = torch.linalg.eigvalsh(matrix(hessian(made, x, scope="layers", coordinates=coordinates))).numpy()
            np.testing.assert_allclose(found.eigenvalues[row, column], exact[::-1][:4], rtol=1e-6)
            np.testing.assert_allclose(found.smallest[row, column], exact[:2], rtol=1e-6, atol=1e-9 * exact[-1])
            assert found.spectral_norm[row, column] == pytest.approx(np.abs(exact).max(), rel=1e-6)
            assert found.ratio[row, column] == pytest.approx(abs(exact[0]) / exact[-1], rel=1e-5)
            assert found.nuclear_norm[row, column] == pytest.approx(exact[-4:].sum(), rel=1e-6)
        assert found.loss[row] == pytest.approx(F.cross_entropy(made.model(x), made.y).item(), rel=1e-12)
    assert found.converged.all() and found.smallest_converged.all()
    assert (found.residuals <= 1e-4 * found.eigenvalues).all()
    normalised = found.eigenvalues / found.random_losses.mean(axis=1)[:, None, None]
    np.testing.assert_allclose(found.normalised, normalised, rtol=1e-12)
    again = load(save(found, tmp_path / "spectrum.json"))
    np.testing.assert_array_equal(again.smallest_converged, found.smallest_converged)
    assert again.smallest_converged.dtype == bool


def test_closed_form_random_weights_know_nothing():
    """At random weights the loss is near ln K, and the attack raises it."""
    found = measure(Spectrum(attack=ATTACK, k=1, coordinates=("raw",), random_weights=4), looked_at())
    assert found.random_losses.shape == (2, 4) and len(set(found.random_losses[0])) == 4
    np.testing.assert_allclose(found.random_losses, np.log(3), atol=0.3)
    assert (found.random_losses[1] > found.random_losses[0]).all()


def test_contract_the_clean_loss_alone_without_an_attack():
    settings = Spectrum(attack=None, k=2, coordinates=("raw",), random_weights=0)
    found = measure(settings, looked_at())
    assert found.losses == ("clean",) and found.attack == "" and found.normalised.shape == (1, 1, 0)
    other = measure(replace(settings, random_weights=1), looked_at())
    both = measure(replace(settings, attack=ATTACK, random_weights=1), looked_at())
    assert other.random_losses[0, 0] == pytest.approx(both.random_losses[0, 0], rel=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 12])
def test_contract_batches_change_nothing(batch):
    settings = Spectrum(attack=None, k=3, random_weights=0)
    few, whole = measure(settings, looked_at(batch)), measure(settings, looked_at(100))
    np.testing.assert_allclose(few.eigenvalues, whole.eigenvalues, rtol=1e-9)


def test_contract_what_did_not_converge_is_marked():
    found = measure(Spectrum(attack=None, k=6, most=8, tolerance=1e-4, random_weights=0), looked_at())
    assert (found.products == 8).all() and not found.converged.all()
    beyond = found.residuals > 1e-4 * np.abs(found.eigenvalues)
    np.testing.assert_array_equal(found.converged, ~beyond)


def test_closed_form_relative_coordinates_are_scale_free():
    """A convolution before BatchNorm times 3, its statistics with it: the same function, another raw Hessian."""
    model = network()
    model[1].eps = 0.0
    settings = Spectrum(
        attack=None, k=3, coordinates=("raw", "layer", "filter"), scope="weights", tolerance=1e-5, random_weights=0
    )
    before = measure(settings, looked_at(model=model)).eigenvalues[0]
    with torch.no_grad():
        model[0].weight *= 3
        model[0].bias *= 3
        model[1].running_mean *= 3
        model[1].running_var *= 9
    after = measure(settings, looked_at(model=model)).eigenvalues[0]
    np.testing.assert_allclose(after[1:], before[1:], rtol=1e-8)
    assert after[0, 0] < 0.9 * before[0, 0]


def test_contract_vectors_of_nearby_weights_are_a_start():
    made = looked_at()
    first = top(made, k=4, tolerance=1e-3)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter *= 1.001
    cold, warm = top(made, k=4, tolerance=1e-3), top(made, k=4, tolerance=1e-3, start=first.top.vectors)
    torch.testing.assert_close(warm.top.values, cold.top.values, rtol=1e-4, atol=0)
    assert warm.products < cold.products
    move = hessian(made).params(warm.top.vectors[0])
    assert set(move) == dict(made.model.named_parameters()).keys()
    with pytest.raises(BadInput, match="other weights"):
        top(made, k=4, start=first.top.vectors[:, :-1])


def test_contract_eigenvectors_are_kept_and_started_from(tmp_path):
    made = looked_at()
    settings = Spectrum(attack=None, k=2, coordinates=("raw", "layer"), tolerance=1e-4, random_weights=0)
    cold = measure(replace(settings, vectors=str(tmp_path)), made)
    for number, coordinates in enumerate(settings.coordinates):
        kept, operator = (
            load_file(tmp_path / f"clean-{coordinates}.safetensors"),
            hessian(made, coordinates=coordinates),
        )
        assert kept["top"].shape == (2, operator.size) and kept["bottom"].shape == (1, operator.size)
        for vector, value in zip(kept["top"], cold.eigenvalues[0, number], strict=True):
            torch.testing.assert_close(operator(vector), value * vector, rtol=0, atol=1e-4 * value)
    warm = measure(replace(settings, start=str(tmp_path)), made)
    np.testing.assert_allclose(warm.eigenvalues, cold.eigenvalues, rtol=1e-7)
    assert (warm.products < cold.products).all()
    (tmp_path / "clean-layer.safetensors").write_text("other")
    with pytest.raises(BadInput, match="or is damaged"):
        measure(replace(settings, start=str(tmp_path)), made)
    with pytest.raises(BadInput, match="no eigenvectors of the clean loss in filter coordinates"):
        measure(replace(settings, coordinates=("filter",), start=str(tmp_path)), made)


def test_contract_says_what_cannot_be_meant():
    for change, words in (
        ({"k": 0}, "k and bottom must be at least 1, not 0 and 1"),
        ({"tolerance": 2.0}, "did you mean 0.01"),
        ({"most": 20}, "most must be at least k . bottom = 21"),
        ({"coordinates": ()}, "not none"),
        ({"coordinates": ("raw", "raw")}, "each once, not raw raw"),
        ({"scope": "biases"}, "scope 'biases' is not one of weights, layers, all"),
        ({"random_weights": -1}, "random_weights must be at least 0"),
    ):
        with pytest.raises(BadInput, match=words):
            Spectrum(**change)
    with pytest.raises(BadInput, match=r"k . bottom is 501, and there are only 243 weights of 'all'"):
        Spectrum(k=500, most=600).at(looked_at(), ["clean", "raw"])


def test_reference_hessian_eigenthings():
    things = pytest.importorskip("hessian_eigenthings")
    made = looked_at()
    found = top(made, k=5, tolerance=1e-5)
    operator = things.HessianOperator(
        made.model, [(made.x, made.y)], lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])
    )
    peer = things.lanczos(operator, k=5, max_iter=60, reorthogonalize=True, which="LA", seed=0)
    values = torch.as_tensor(peer.eigenvalues).sort(descending=True).values
    torch.testing.assert_close(found.top.values, values.double(), rtol=1e-6, atol=0)


def test_closed_form_random_weights_of_normalisation_alone_are_new_ones():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(9)).double().eval()
    with torch.no_grad():
        model[1].weight.fill_(3)
    x = torch.rand(6, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = subject(model, x, torch.arange(6) % 3, runtime=TRUTH)
    found = measure(Spectrum(attack=None, k=2, coordinates=("raw",), random_weights=2), made)
    new = F.cross_entropy(x.flatten(1) / (1 + model[1].eps) ** 0.5, made.y).item()
    assert found.random_losses[0] == pytest.approx([new] * 2, rel=1e-12)
    with pytest.raises(NotApplicable, match="no filter"):
        measure(Spectrum(attack=None, k=2, coordinates=("filter",)), made)
