import numpy as np

from robustscape.landscape.flatness import Estimate
from robustscape.landscape.gradients import GradientResult
from robustscape.pictures.gradients import picture
from robustscape.pictures.plot import sentences


def result(fake, scale):
    unknown = Estimate(value=scale, low=scale / 2, high=2 * scale, n=4)
    names = ("clean_signal", "robust_signal", "clean_noise", "robust_noise", "clean_noise_scale", "robust_noise_scale")
    return GradientResult(
        losses=("clean", "robust"),
        layers=("w",),
        **dict.fromkeys(("loss", "norm", "stochastic_norm", "stochastic_deviation"), np.full(2, scale)),
        **dict.fromkeys(("layer_norm", "relative_norm", "slope"), np.full((2, 1), scale)),
        **dict.fromkeys(names, unknown),
        minibatch=50,
        minibatches=4,
        attack="PGD",
        n=200,
        split="test",
        provenance=fake.PROVENANCE,
    )


def test_contract_bars_of_norms_and_of_noise_scales_are_told_apart(fake):
    _, norms, scales = (found := picture({"AT": [result(fake, 1.0), result(fake, 3.0)]})).plots
    said = sentences(found.how)
    assert "Of norms, bars: one standard deviation over seeds." in said
    assert "Of the noise scale each seed's own bars: 95 % intervals." in said
    np.testing.assert_allclose(norms.traces[0].high - norms.traces[0].y, np.sqrt(2))
    assert [trace.low[0] for trace in scales.traces] == [0.5, 1.5]
    assert "Of norms, bars: the spread over mini-batches." in sentences(picture({"AT": [result(fake, 1.0)]}).how)
