"""Ordinary training against a naive rendering, in float64."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from robustscape.objectives.natural import Natural
from robustscape.weights.awp import AWP


def _loss(net, batch):
    p = net.train()(batch.x).softmax(1)
    return -p[torch.arange(8), batch.y].log().mean()


@pytest.mark.parametrize("gamma", [0.0, 0.02])
def test_reference_steps_in_float64(gamma, naive, stepped, rendered, same):
    batches = naive.batches(3)
    ours, logs = stepped(Natural(), AWP(gamma=gamma) if gamma else None, batches)
    assert all(set(log.loss) == {"cross_entropy", "total"} and log.eps is None for log in logs)

    def made(batch):
        return lambda net: partial(_loss, batch=batch)

    same(ours, rendered(naive.network(), [made(batch) for batch in batches], gamma))
    assert int(ours.state_dict()["1.num_batches_tracked"]) == 3
