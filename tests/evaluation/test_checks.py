"""Checks of images and logits: one sentence for each thing that goes wrong, silence for what is right."""

import pytest
import torch

from robustscape.evaluation.checks import check_images, check_logits
from robustscape.types import BadInput

X = torch.linspace(0, 1, 4 * 3 * 5 * 5).view(4, 3, 5, 5)
Y = torch.tensor([0, 1, 2, 1])


def changed(value: float) -> torch.Tensor:
    x = X.clone()
    x[1, 0, 0, 0] = value
    return x


@pytest.mark.parametrize("x", [X, X.double(), X[:, :1], changed(1 + 5e-7), changed(-5e-7)])
@pytest.mark.parametrize("y", [Y, Y.int(), Y.to(torch.uint8)])
def test_contract_pixels_and_labels_pass(x: torch.Tensor, y: torch.Tensor):
    check_images(x, y, 3)
    assert x.min() >= -1e-6 and x.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (changed(1.00001), Y, "go from 0 to 1.00001; pixels are in"),
        ((X - 0.5) / 0.25, Y, "from -2 to 2; they look normalised: .* put the normalisation into the model"),
        (X * 255, Y, r"from 0 to 255; did you mean x / 255\?"),
        ((X * 255).to(torch.uint8), Y, r"uint8.*did you mean x.float\(\) / 255\?"),
        (X.half(), Y, "float32 or float64, not float16"),
        (X.long(), Y, "not int64"),
        (changed(float("nan")), Y, "1 of 4 images have pixels that are NaN"),
        (changed(float("inf")), Y, "1 of 4 images have pixels that are NaN or infinite"),
        (X[0], Y, r"did you mean x\[None\]"),
        (X.flatten(1), Y, r"not of shape \(4, 75\)"),
        (X[:0], Y[:0], "no images"),
        (X, Y[:3], r"one for each of the 4 images, not of shape \(3,\)"),
        (X, torch.eye(4), r"did you mean y.argmax\(1\)"),
        (X, Y.float(), "integer type, not float32"),
        (X, Y + 1, "from 1 to 3, but 3 classes are 0 to 2; did you mean y - 1"),
        (X, Y - 1, "from -1 to 1"),
        (X, Y * 5, "from 0 to 10, but 3 classes"),
    ],
)
def test_contract_each_wrong_input_has_its_sentence(x: torch.Tensor, y: torch.Tensor, sentence: str):
    with pytest.raises(BadInput, match=sentence):
        check_images(x, y, 3)


LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "logits", [LOGITS, LOGITS.double(), LOGITS.bfloat16(), torch.zeros(6, 3), torch.log_softmax(LOGITS, 1)]
)
@pytest.mark.parametrize("classes", [3, None])
def test_contract_logits_pass(logits: torch.Tensor, classes: int | None):
    check_logits(logits, 6, classes)
    assert logits.shape == (6, 3)


@pytest.mark.parametrize(
    ("logits", "classes", "sentence"),
    [
        (torch.softmax(LOGITS, 1), 3, "probabilities.*leave out its softmax"),
        (torch.softmax(30 * LOGITS, 1), None, "probabilities"),
        (torch.softmax(LOGITS.double(), 1), 3, "probabilities"),
        (torch.softmax(LOGITS.repeat(1, 400), 1), None, "probabilities"),
        (LOGITS.where(LOGITS < 1, float("nan")), 3, "NaN or infinite logits for [1-6] of 6"),
        (LOGITS / 0.0, 3, "NaN or infinite logits for 6 of 6"),
        (LOGITS, 10, r"shape \(6, 3\) for 6 images; it must be \(6, 10\)"),
        (LOGITS[:5], 3, r"shape \(5, 3\) for 6 images"),
        (LOGITS[..., None], 3, r"it must be \(6, 3\)"),
        (LOGITS[:, 0], 2, r"did you mean two logits, \(0, z\)"),
        (LOGITS[:, :1], 2, r"did you mean two logits, \(0, z\)"),
        (LOGITS[:, :1], None, r"1 logit for each image; did you mean two, \(0, z\)"),
        (LOGITS.argmax(1, keepdim=True).expand(6, 3), 3, "int64; it must return logits"),
        ((LOGITS,), 3, "returns a tuple"),
    ],
)
def test_contract_each_wrong_output_has_its_sentence(logits, classes: int | None, sentence: str):
    with pytest.raises(BadInput, match=sentence):
        check_logits(logits, 6, classes)
