from dataclasses import replace

import numpy as np

from robustscape.landscape.flatness import Estimate
from robustscape.landscape.worst_flatness import WorstAtRadius, WorstFlatnessResult
from robustscape.pictures.plot import sentences
from robustscape.pictures.worst_flatness import picture


def result(fake, again_gain=0.0):
    one = Estimate(value=0.2, low=0.1, high=0.3, n=2)
    return WorstFlatnessResult(
        robust=one, clean=replace(one, value=0.15), reference_robust_loss=1.0, reference_clean_loss=0.5,
        robust_rises=np.array([0.2, 0.18]), clean_rises=np.array([0.15, 0.1]), spread=0.02, doubling_gain=0.0,
        again_gain=again_gain, sweep=(), xi=0.01, steps=5, scope="set", mode="sound", attack="PGD", n=9, split="test",
        provenance=fake.PROVENANCE,
    )  # fmt: skip


def test_contract_a_single_radius_has_clean_beside_robust(fake):
    found = picture({"AT": [result(fake)]})
    (plot,) = found.plots
    main, *restarts = plot.traces
    assert plot.ticks == ("clean", "robust") and plot.log == ""
    assert main.x.tolist() == [0, 1] and main.y.tolist() == [0.15, 0.2] and main.low.tolist() == [0.1, 0.1]
    assert [dots.y.tolist() for dots in restarts] == [[0.15, 0.1], [0.2, 0.18]]
    assert "ξ = 0.01" in sentences(found.how) and "has not converged" not in sentences(found.care)


def test_contract_several_radii_make_lines_and_a_weak_attack_is_said(fake):
    one = result(fake, again_gain=-0.01)
    wider = WorstAtRadius(xi=0.1, robust=replace(one.robust, value=0.9), clean=one.clean)
    found = picture({"AT": [replace(one, sweep=(wider,))]})
    clean, robust, _ = found.plots[0].traces
    assert robust.x.tolist() == [0.01, 0.1] and robust.y.tolist() == [0.2, 0.9] and clean.style == "dash"
    assert "has not converged" in sentences(found.care)
