import numpy as np
import pytest
import torch

from robustscape.landscape.crossed import cells, components, half_width


def test_contract_cells_share_the_examples_out():
    for n in (3, 200, 507):
        shared = cells(n, seed=1)
        assert len(shared) == min(n, 200)
        assert torch.equal(torch.cat(shared).sort().values, torch.arange(n))
        lengths = [len(cell) for cell in shared]
        assert max(lengths) - min(lengths) <= 1
    assert [c.tolist() for c in cells(507, 1)] == [c.tolist() for c in cells(507, 1)]
    assert [c.tolist() for c in cells(507, 1)] != [c.tolist() for c in cells(507, 2)]


def crossed(generator, draws, n, sizes):
    """Rises with known components, sizes being the standard deviations between draws, examples and the rest."""
    a, b, c = sizes
    rows = a * generator.normal(size=(draws, 1))
    return 1 + rows + b * generator.normal(size=(1, n)) + c * generator.normal(size=(draws, n))


@pytest.mark.parametrize("n", [150, 600])
def test_closed_form_components_of_made_up_rises(n):
    generator = np.random.default_rng(0)
    found = []
    for _ in range(200):
        rises = crossed(generator, 6, n, (0.3, 2.0, 1.0))
        in_cells = rises.reshape(6, min(n, 200), -1).mean(axis=2)
        found.append(components(in_cells, n=n, passes=2))
    for name, truth in {"between_draws": 0.09, "between_examples": 4.0, "interaction": 1.0}.items():
        values = np.array([getattr(one, name) for one in found])
        assert abs(values.mean() - truth) < 4 * values.std() / 200**0.5 + 0.01 * truth  # the cut at 0 is rare


def test_closed_form_the_recommended_split_is_the_best_of_all():
    generator = np.random.default_rng(1)
    one = components(crossed(generator, 8, 120, (0.5, 1.0, 0.5)), n=120, passes=2)
    cost = (2 * 8 + 1) * 120

    def error(draws, n):
        parts = one.between_draws / draws, one.between_examples / n, one.interaction / (draws * n)
        return sum(parts) ** 0.5

    assert one.error == pytest.approx(error(8, 120), rel=1e-12)
    best = min((error(d, cost / (2 * d + 1)), d) for d in range(4, 60) if cost // (2 * d + 1) >= 32)
    assert abs(one.best_draws - best[1]) <= 1
    assert (2 * one.best_draws + 1) * one.best_examples <= cost
    assert one.best_error == pytest.approx(error(one.best_draws, one.best_examples), rel=1e-12)
    assert best[0] - 1e-9 <= one.best_error <= one.error
    assert one.dominant == "draws"


def test_contract_the_dominant_part_is_named_and_rises_without_spread_have_none():
    generator = np.random.default_rng(2)
    few, wide = crossed(generator, 50, 40, (0.01, 5, 0.1)), crossed(generator, 4, 40, (0.01, 0.01, 3))
    assert components(few, n=40, passes=1).dominant == "examples"
    assert components(wide, n=40, passes=1).dominant == "interaction"
    flat = components(np.ones((4, 40)), n=40, passes=1)
    assert flat.error == 0 and flat.best_draws >= 4 and flat.best_examples >= 1
    assert components(np.ones((1, 40)), n=40, passes=1) is None and components(np.ones((4, 1)), n=1, passes=1) is None


def test_closed_form_the_interval_over_both_covers_the_truth():
    generator, hits = np.random.default_rng(3), 0
    for _ in range(400):
        rises = crossed(generator, 8, 50, (0.5, 2.0, 1.0))
        half = half_width(rises.mean(axis=1), rises.mean(axis=0))
        hits += abs(rises.mean() - 1) <= half
    assert 0.93 <= hits / 400 <= 1  # 95 % and a little more; its own error is 1.1 %


def test_contract_an_interval_from_one_draw_has_no_end():
    assert half_width(np.ones(1), np.ones(5)) == np.inf and half_width(np.ones(3), np.ones(5)) == 0
