import numpy as np
import pytest
import torch
from torch import nn

from robustscape.evaluation.subject import subject
from robustscape.landscape.histograms import Histogram
from robustscape.landscape.runner import measure
from robustscape.types import BadInput


def test_closed_form_counts_of_chosen_weights():
    model = nn.Sequential(nn.Conv2d(1, 1, 2), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[[[-2.0, -1.9], [0.1, 1.0]]]]))
        model[3].weight.zero_()
    made = subject(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    found = measure(Histogram(bins=4), made)
    assert found.layers == ("0.weight", "3.weight")  # no biases, no normalisation
    assert found.edges[0].tolist() == [-2, -1, 0, 1, 2]
    assert found.counts[0].tolist() == [2, 0, 1, 1]
    assert found.counts[1].sum() == 2 and found.norm[1] == 0
    assert found.norm[0] == pytest.approx(np.sqrt(4 + 1.9**2 + 0.01 + 1))


def test_contract_no_bins_is_refused():
    with pytest.raises(BadInput, match="bins"):
        Histogram(bins=0)
