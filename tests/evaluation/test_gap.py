from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.evaluation.accuracy import evaluate
from robustscape.evaluation.gap import gap
from robustscape.evaluation.result import Number
from robustscape.types import BadInput


def evaluation(error, low, high, loss):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    made = evaluate(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), steps=1, restarts=0, loss_restarts=0, sanity=0)
    fraction = Number(value=error, low=low, high=high, n=100)
    nats = Number(value=loss, low=loss - 0.3, high=loss + 0.4, n=100)
    return replace(made, clean_error=fraction, robust_error=fraction, clean_loss=nats, robust_loss=nats)


def test_closed_form_gap_is_test_minus_train_with_arms_in_squares():
    train, test = evaluation(0.25, 0.21, 0.29, 1.0), evaluation(0.5, 0.47, 0.53, 1.5)
    found = gap(train, test)
    assert found.robust_error.value == 0.25
    assert found.robust_error.low == pytest.approx(0.25 - (0.03**2 + 0.04**2) ** 0.5)
    assert found.robust_error.high == pytest.approx(0.25 + 0.05)
    assert found.clean_loss.value == 0.5
    assert (found.clean_loss.low, found.clean_loss.high) == pytest.approx((0.0, 1.0))


def test_contract_different_attacks_have_no_gap():
    train = evaluation(0.2, 0.1, 0.3, 1.0)
    with pytest.raises(BadInput, match="eps"):
        gap(train, replace(train, eps=0.5))
