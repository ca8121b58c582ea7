"""The same pixels from a zip, a folder, an .npz file and from memory are trained to the same weights."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from robustscape.data.folder import Folder
from robustscape.data.memory import hold
from robustscape.data.npz import Npz
from robustscape.models.linear import Linear
from robustscape.objectives.natural import Natural
from robustscape.recipes.digits import digits_at
from robustscape.recipes.execute import train
from robustscape.runtime import Runtime

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def sources(tmp_path):
    """Every way to hold 60 training and 20 test images of two classes, in one order."""
    generator = np.random.default_rng(0)
    arrays, files = {}, {}
    for split, n in (("train", 60), ("test", 20)):
        x, y = generator.integers(256, size=(n, 8, 8), dtype=np.uint8), np.arange(n) % 2
        arrays |= {f"x_{split}": x, f"y_{split}": y}
        for i in range(n):
            content = io.BytesIO()
            Image.fromarray(x[i]).save(content, "PNG")
            files[f"set/{split}/{('cat', 'dog')[y[i]]}/{i}.png"] = content.getvalue()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        archive.extractall(tmp_path)
    names = ["cat", "dog"]
    np.savez(tmp_path / "set.npz", classes=np.array(names), **arrays)
    floats = (torch.from_numpy(arrays["x_train"])[:, None] / 255, torch.from_numpy(arrays["y_train"]))
    made = {
        "zip": Folder(path=str(tmp_path / "set.zip")),
        "folder": Folder(path=str(tmp_path / "set")),
        "npz": Npz(path=str(tmp_path / "set.npz")),
        "memory": hold((arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"]), classes=names),
        "tensors": hold(floats, (arrays["x_test"][..., None] / 255, arrays["y_test"]), classes=names),
    }
    return {name: replace(source, validation=10) for name, source in made.items()}


def test_end_to_end_the_same_weights_for_the_same_pixels(sources, tmp_path):
    run = digits_at()
    run = replace(run, model=Linear(), objective=Natural(), training=replace(run.training, epochs=2, track=0))
    run = replace(run, runtime=Runtime(device="cpu", compile="no", precision="float32", threads=1))
    weights = {}
    for name, source in sources.items():
        for _ in train(replace(run, data=source), tmp_path / "runs" / name, name="run"):
            pass
        weights[name] = safetensors.torch.load_file(tmp_path / "runs" / name / "checkpoints" / "last.safetensors")
    first = weights.pop("zip")
    for others in weights.values():
        assert others.keys() == first.keys()
        assert all(torch.equal(others[key], first[key]) for key in first)
