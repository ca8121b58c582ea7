from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustscape.attacks.pgd import PGD
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.judging import performance
from robustscape.evaluation.subject import fastest, subject
from robustscape.runtime import TRUTH, PlainView
from robustscape.types import BadInput


def linear(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


X, Y = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])


def test_contract_arrays_become_tensors_of_the_models_type():
    made = subject(linear().double(), X.numpy(), Y.numpy().astype(np.int32))
    assert made.x.dtype == torch.float64 and made.y.dtype == torch.int64
    assert made.classes == ("0", "1", "2") and made.index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("model", "x", "y", "options", "says"),
    [
        (linear(), X * 255, Y, {}, "255"),
        (linear(), X * 2 - 1, Y, {}, "normalised"),
        (linear(2), X, Y, {}, "2 outputs"),
        (linear(), X, Y.clamp(max=2) + 1, {}, "did you mean y - 1"),
        (torch.sin, X, Y, {}, "must be a torch.nn.Module"),
        (linear(), X, Y, {"classes": ("cat", "dog")}, "2 classes"),
        (linear(), X, Y, {"index": torch.arange(4)}, "4 indices"),
        (linear(), X, Y, {"batch": 0}, "batch"),
        (linear().half(), X, Y, {}, "half"),
        (nn.Sequential(linear(), nn.Softmax(1)), X, Y, {}, "softmax"),
        (linear(), torch.rand(5, 3, 2, 2), Y, {}, "3, 2, 2"),
    ],
)
def test_contract_bad_input_is_one_sentence(model, x, y, options, says):
    with pytest.raises(BadInput, match=says) as caught:
        subject(model, x, y, **options)
    assert "\n" not in str(caught.value)


def test_contract_a_float64_buffer_does_not_make_a_float32_model_a_float64_one():
    model = linear()
    model.register_buffer("seen", torch.zeros(1, dtype=torch.float64))
    made = subject(model, X, torch.zeros(len(X), dtype=torch.int64))
    assert made.x.dtype == torch.float32
    with made.view as searched:
        assert searched(made.x).dtype == torch.float32


# -- less memory ---------------------------------------------------------------------------------------

ATTACK = PGD(threat=ThreatModel(eps=0.3), steps=3)
FOR_TWO = replace(TRUTH, memory_limit=2.5 * 3 * 16 / 2**30)  # a linear layer keeps its input and needs two more


def watched(seen, most=5):
    """Return a model that notes how many rows it is given, and runs out of memory with too many."""

    def hook(module, inputs):
        seen.append(len(inputs[0]))
        if seen[-1] > most:
            raise torch.OutOfMemoryError

    model = linear()
    model[1].register_forward_pre_hook(hook)
    return model


def test_contract_what_memory_does_not_hold_is_worked_through_in_parts():
    seen = []
    model = watched(seen)
    whole = performance(subject(linear(), X, Y, runtime=TRUTH), ATTACK, "test")
    with pytest.warns(UserWarning, match="memory does not hold a batch of 5: it is worked through 2 at a time") as told:
        made = replace(subject(model, X, Y, runtime=FOR_TWO), view=PlainView(model))
    assert len(told) == 1 and (made.batch, made.parts.size) == (250, 2)
    seen.clear()
    assert vars(performance(made, ATTACK, "test")) == pytest.approx(vars(whole), rel=1e-6)
    assert set(seen) == {1, 2}


def test_contract_a_part_that_is_asked_for_is_no_news():
    assert subject(linear(), X, Y, runtime=replace(TRUTH, micro_batch=3)).parts.size == 3


def test_contract_out_of_memory_halves_once_with_the_same_result():
    seen = []
    whole = performance(subject(linear(), X, Y, runtime=TRUTH), ATTACK, "test")
    made = replace(subject(linear(), X, Y, runtime=TRUTH), model=watched(seen, most=3))
    with pytest.warns(UserWarning, match="out of memory: going on with 3 examples at once") as told:
        found = [performance(made, ATTACK, "test") for _ in range(2)]
    assert len(told) == 1 and seen.count(5) == 1
    assert vars(found[0]) == vars(found[1]) == pytest.approx(vars(whole), rel=1e-6)


def test_contract_too_little_memory_for_one_example_is_one_sentence():
    with pytest.raises(BadInput, match="one example takes about") as caught:
        subject(linear(), X, Y, runtime=replace(TRUTH, memory_limit=1e-9))
    assert "\n" not in str(caught.value)


def test_contract_the_fastest_subject_is_parted_and_keeps_a_runtime_that_memory_does_not_move():
    made = replace(subject(linear(), X, Y, runtime=FOR_TWO, batch=2), batch=5)
    with pytest.warns(UserWarning, match="does not hold a batch of 5"):
        ready, _ = fastest(made, ATTACK, 1)
    assert ready.parts.size == 2 and ready.runtime.micro_batch == 0
    assert fastest(subject(linear(), X, Y, runtime=TRUTH), ATTACK, 1)[0].parts.size > 5
    assert fastest(ready, None, 1) == (ready, None)
    with pytest.warns(UserWarning, match="does not hold a batch of 5"):
        assert fastest(made, None, 0)[0].parts.size == 2
    double = replace(subject(linear().double(), X, Y, runtime=TRUTH), runtime=FOR_TWO)
    with pytest.warns(UserWarning, match="1 at a time"):
        assert fastest(double, ATTACK, 1)[0].parts.size == 1
