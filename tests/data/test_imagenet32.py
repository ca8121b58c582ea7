"""Downsampled ImageNet from small batches of its form."""

import pickle

import numpy as np
import pytest
import torch

from robustscape.data.imagenet32 import ImageNet32
from robustscape.types import BadInput

NAMES = [*(f"train_data_batch_{number}" for number in range(1, 11)), "val_data"]


def batch(place, labels=(1, 4, 5, 4)):
    """Four images, their pixels 4 * place + their number, with what else the files hold."""
    data = np.repeat(np.arange(4 * place, 4 * place + 4).astype(np.uint8)[:, None], 3072, axis=1)
    return {"data": data, "labels": list(labels), "mean": np.zeros(3072)}


def lay(folder, form):
    for place, name in enumerate(NAMES):
        inside = folder / ("Imagenet32_val" if name == "val_data" else "Imagenet32_train")
        inside.mkdir(parents=True, exist_ok=True)
        if form == "npz":
            np.savez(inside / f"{name}.npz", **{k: np.array(v) for k, v in batch(place).items()})
        else:
            (inside / name).write_bytes(pickle.dumps(batch(place), protocol=4))


@pytest.mark.parametrize("form", ["pickle", "npz"])
def test_closed_form_pixels_and_labels_from_0_on(tmp_path, form):
    lay(tmp_path / "imagenet32", form)
    splits = ImageNet32(path=str(tmp_path / "imagenet32"), classes=(0, 3, 4), validation=8).load(seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (32, 8, 4)
    for images in (splits.train, splits.validation):
        assert torch.equal(images.x[:, 1, 2, 3].long(), images.index)
        assert torch.equal(images.y, torch.tensor([0, 1, 2, 1])[images.index % 4])
    assert splits.test.x[:, 0, 0, 0].tolist() == [40, 41, 42, 43] and splits.train.classes == ("1", "4", "5")
    assert splits.test.name == "ImageNet 32x32 (classes 0, 3, 4), test"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "has no train_data_batch_7, nor train_data_batch_7.npz; it needs all 11 batches"),
        (b"", "train_data_batch_7 is damaged"),
        (pickle.dumps(batch(0, labels=(0, 1, 2, 3))), "labels from 0 to 3, not from 1 to 1000"),
        (pickle.dumps(batch(0, labels=(1, 2))), "and 2 labels"),
        (pickle.dumps(batch(0))[:-500], "is not a pickle of arrays"),
        (pickle.dumps(batch(0) | {"more": len}), "asks for 'builtins len'"),
    ],
)
def test_contract_a_wrong_batch_is_refused(tmp_path, content, sentence):
    lay(tmp_path, "pickle")
    path = tmp_path / "Imagenet32_train" / "train_data_batch_7"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(BadInput, match=sentence):
        ImageNet32(path=str(tmp_path), classes=(0, 3, 4)).load(seed=0)
