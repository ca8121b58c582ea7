"""Soft labels against formulas, one example at a time; which numbers they are drawn from; how they are chosen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from robustscape.cli.arguments import parse
from robustscape.config import from_plain, to_plain
from robustscape.data.batches import Loader
from robustscape.data.mixed import MixedLoader
from robustscape.data.targets import Targets
from robustscape.recipes.digits import digits_at
from robustscape.streams import Streams
from robustscape.types import BadInput, Batch, Images

K = 5


def _batch(n: int = 12, dtype: torch.dtype = torch.float64) -> Batch:
    x = torch.rand(n, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return Batch(x=x, y=torch.arange(n) * 3 % K, index=torch.arange(n) * 11)


def _rng(batch: Batch, epoch: int = 0) -> Streams:
    return Streams(2, ("targets", epoch), batch.index)


def _images(n: int = 23, first: int = 0) -> Images:
    x = torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Images(x=x, y=torch.arange(n) % K, index=first + torch.arange(n), classes=tuple("abcde"), name="Set")


@pytest.mark.parametrize("tau", [0.1, 0.3, 0.75])
def test_closed_form_smoothing_over_all_classes_and_over_the_others(tau):
    batch = _batch()
    everyone = Targets(smoothing=tau)(batch, _rng(batch), classes=K).target
    others = Targets(smoothing=tau, over="K-1")(batch, _rng(batch), classes=K).target
    for y, one, other in zip(batch.y.tolist(), everyone, others, strict=True):
        for k in range(K):
            assert float(one[k]) == pytest.approx(1 - tau + tau / K if k == y else tau / K, abs=1e-15)
            assert float(other[k]) == pytest.approx(1 - tau if k == y else tau / (K - 1), abs=1e-15)


def test_closed_form_smoothing_over_k_is_the_mean_of_label_noise():
    """Within 5 standard deviations of 40,000 draws."""
    n = 40_000
    batch = Batch(x=torch.zeros(n, 1), y=torch.full((n,), 2), index=torch.arange(n))
    noisy = Targets(noise=0.4)(batch, _rng(batch), classes=K).target
    smooth = Targets(smoothing=0.4)(batch, _rng(batch), classes=K).target[0]
    assert set(noisy.unique().tolist()) == {0.0, 1.0} and bool((noisy.sum(1) == 1).all())
    assert float((noisy.mean(0) - smooth).abs().max()) < 5 * 0.5 / n**0.5


def test_contract_noise_is_of_the_image_and_the_epoch_alone():
    batch, some = _batch(40), torch.tensor([7, 3, 30])
    targets = Targets(noise=0.5)
    whole = targets(batch, _rng(batch), classes=K)
    few = replace(batch, x=batch.x[some], y=batch.y[some], index=batch.index[some])
    assert torch.equal(targets(few, _rng(few), classes=K).target, whole.target[some])
    assert not torch.equal(targets(batch, _rng(batch, 1), classes=K).target, whole.target)
    assert torch.equal(whole.x, batch.x) and torch.equal(whole.y, batch.y)
    assert whole.mixed is None and torch.equal(whole.goal, batch.y)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 1.4])
def test_reference_mixup_is_a_loop_over_pairs(alpha):
    """Share and partners made again from the same numbers by other means; noise and smoothing are not attacked."""
    batch = _batch()
    rng = _rng(batch)
    made = Targets(mixup=alpha, noise=0.3, smoothing=0.2)(batch, rng, classes=K)
    target = Targets(noise=0.3, smoothing=0.2)(batch, rng, classes=K).target
    share = stats.beta(alpha, alpha).ppf(float(rng.tag("share").uniform(dtype=torch.float64)[0]))
    partner = np.argsort(rng.tag("partner").bits(1)[:, 0].numpy())
    for i, j in enumerate(partner):
        torch.testing.assert_close(made.x[i], share * batch.x[i] + (1 - share) * batch.x[j], rtol=0, atol=1e-14)
        torch.testing.assert_close(made.target[i], share * target[i] + (1 - share) * target[j], rtol=0, atol=1e-14)
        labels = torch.zeros(K, dtype=torch.float64)
        labels[batch.y[i]] += share
        labels[batch.y[j]] += 1 - share
        torch.testing.assert_close(made.mixed[i], labels, rtol=0, atol=1e-14)
    assert made.goal is made.mixed and torch.equal(made.y, batch.y)
    assert sorted(partner.tolist()) == list(range(len(batch)))


def test_closed_form_shares_are_of_the_beta_distribution():
    """Kolmogorov and Smirnov's test at 1 in 10,000, over batches of one."""
    targets = Targets(mixup=1.4)
    shares = [targets._share(Streams(0, ("targets", epoch), torch.tensor([9]))) for epoch in range(500)]
    assert stats.kstest(shares, stats.beta(1.4, 1.4).cdf).pvalue > 1e-4


def test_closed_form_mixed_pixels_stay_in_the_box():
    x = torch.randint(0, 2, (64, 3, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    batch = Batch(x=x, y=torch.zeros(64, dtype=torch.long), index=torch.arange(64))
    for epoch in range(20):
        made = Targets(mixup=0.7)(batch, _rng(batch, epoch), classes=2).x
        assert float(made.min()) >= 0 and float(made.max()) <= 1


def test_contract_nothing_asked_for_leaves_the_batch():
    batch = _batch()
    assert Targets()(batch, _rng(batch), classes=K) is batch


def test_contract_from_a_step_the_targets_are_those_of_the_whole_epoch():
    loader = Loader(images=_images(), batch_size=5, seed=2, targets=Targets(noise=0.5, smoothing=0.1, mixup=1.4))
    whole, rest = list(loader.epoch(4)), list(loader.epoch(4, 2))
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.target, b.target) and torch.equal(a.mixed, b.mixed)
    other = next(loader.epoch(5))
    assert not torch.equal(other.target, whole[0].target)


def test_contract_pseudo_labelled_images_have_soft_labels_but_are_not_mixed():
    sets = {"labelled": _images(), "unlabelled": _images(10, 100), "batch_size": 6, "seed": 0}
    batch = next(MixedLoader(**sets, targets=Targets(smoothing=0.2)).epoch(0))
    wanted = torch.full((6, K), 0.04).scatter(1, batch.y[:, None], 0.84)
    torch.testing.assert_close(batch.target, wanted, rtol=0, atol=1e-7)
    with pytest.raises(BadInput, match="mix labelled and pseudo-labelled"):
        MixedLoader(**sets, targets=Targets(mixup=1.0))


def test_contract_is_chosen_on_the_command_line_and_kept_in_the_run():
    words = ["--targets.smoothing", "0.2", "--targets.over", "K-1", "--targets.mixup", "1.4"]
    run = parse(digits_at(), words, program="test", description="test")
    assert run.targets == Targets(smoothing=0.2, over="K-1", mixup=1.4)
    plain = json.loads(json.dumps(to_plain(run)))
    assert from_plain(plain) == run
    del plain["targets"]  # as a run that began before there were any
    assert from_plain(plain) == digits_at()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"smoothing": 10.0}, "did you mean 0.1"),
        ({"smoothing": 1.0}, "in \\[0, 1\\), not 1"),
        ({"over": "K-1"}, "did you mean smoothing=0.1"),
        ({"smoothing": 0.1, "over": "k"}, "'K' classes or over 'K-1'"),
        ({"noise": 30.0}, "did you mean 0.3"),
        ({"noise": float("nan")}, "a probability"),
        ({"mixup": -1.0}, "at least 0, not -1"),
    ],
)
def test_contract_refuses_what_cannot_be_meant(fields, words):
    with pytest.raises(BadInput, match=words):
        Targets(**fields)
