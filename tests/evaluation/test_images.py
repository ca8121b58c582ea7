import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.images import adversarial_images
from robustscape.results import load, save


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_contract_the_first_images_their_adversaries_and_predictions(tmp_path, norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = torch.rand(9, 1, 4, 4), torch.randint(0, 3, (9,))
    attack = PGD(threat=ThreatModel(norm=norm, eps=0.2), steps=4)
    found = adversarial_images(model, x, y, attack, n=4, classes=("a", "b", "c"))
    assert np.array_equal(found.x, x[:4].numpy()) and np.array_equal(found.y, y[:4].numpy())
    delta = torch.from_numpy(found.x_adv - found.x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert bool((size > 0.1).all()) and bool((size <= 0.2 + 1e-6).all())
    assert found.x_adv.min() >= 0 and found.x_adv.max() <= 1
    assert np.array_equal(found.clean_prediction, model(x[:4]).argmax(1).numpy())
    assert np.array_equal(found.adversarial_prediction, model(torch.from_numpy(found.x_adv)).argmax(1).numpy())
    again = load(save(found, tmp_path / "images.json"))
    assert np.array_equal(again.x_adv, found.x_adv) and again.classes == ("a", "b", "c")
