"""Hundreds of damaged and hostile checkpoints: each is refused in one sentence or read, and none is executed."""

import io
import json
import os
import pickle
import random
import zipfile

import pytest
import safetensors.torch
import torch

from robustscape.config import to_plain
from robustscape.models import load
from robustscape.models.lenet import LeNet
from robustscape.training.checkpoints import save_weights
from robustscape.types import BadInput

IMAGE = (1, 8, 8)
LENET = LeNet(width=1)
QUICK, ALL = range(30), range(30, 155)
JUNK = (None, True, -1, 0, 10**12, 10**40, 1e300, "", "x", [], {}, [[1]], {"type": "os:system"}, {"type": 3})


class Evil:
    """What makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def damaged(content, rng, evil):
    """Return the bytes cut, flipped, overwritten, moved, repeated, or with a pickle that would run among them."""
    n = len(content)
    a, b = sorted(rng.sample(range(n + 1), 2))
    kind = rng.randrange(8)
    if kind == 0:
        return content[:a]
    if kind == 1:
        flipped = bytearray(content)
        for _ in range(rng.choice([1, 1, 3, 20])):
            flipped[rng.randrange(n)] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 2:  # near the beginning, where the headers are
        return content[: a % 300] + rng.randbytes(2) + content[a % 300 + 2 :]
    if kind == 3:
        width = min(b - a, 64)
        return content[:a] + rng.choice([b"\x00", b"\xff", b"\x7f"]) * width + content[a + width :]
    if kind == 4:
        return content[:a] + content[b:]
    if kind == 5:
        return content[:a] + content[a:b] + content[a:]
    if kind == 6:
        return content[:a] + evil + content[a:]
    return evil


def repacked(content, rng, evil):
    """Damage one file inside torch's archive, its checksums made anew, or compress it as torch never does."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {item.filename: archive.read(item) for item in archive.infolist()}
    name = rng.choice([name for name in files if files[name]])
    files[name] = damaged(files[name], rng, evil)
    new, kind = io.BytesIO(), rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(new, "w", kind) as archive:
        for name, inside in files.items():
            archive.writestr(name, inside)
    return new.getvalue()


def reshaped(content, rng, evil):
    """Give some tensors other shapes, types, names or numbers, or put a layer too many."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    for name in rng.sample(list(state), rng.choice([1, 1, 4])):
        value = state.pop(name)
        value = rng.choice(
            [
                *(value[:0], value.flatten(), value.int(), value.to(torch.complex64), value / 0, value.to_sparse()),
                *(value[None], torch.zeros(1).expand(10**6, 10**6), torch.zeros(10**4, 3, 3, 3), value * torch.nan),
            ]
        )
        state[rng.choice([name, name, name + "x", "module." + name, "mu", ""])] = value
    new = io.BytesIO()
    torch.save(rng.choice([state, {"model": state, "state_dict": {}}, {"net": [state]}, {1: state}]), new)
    return new.getvalue()


def _saved(content, **settings):
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def forms(folder):
    """For each form: its ending, the whole file and how it is damaged."""
    state = LENET.build(image=IMAGE, classes=3, seed=1).state_dict()
    header = {"architecture": to_plain(LENET), "image": list(IMAGE), "classes": ["a", "b", "c"]}
    save_weights(LENET.build(image=IMAGE, classes=3, seed=1), folder / "ours.safetensors", header)
    ours = (folder / "ours.safetensors").read_bytes()

    def said_wrongly(_, rng, evil):
        return safetensors.torch.save(state, {"robustscape": json.dumps(mutated(header, rng))})

    return {
        "ours": (".safetensors", ours, damaged),
        "ours, header": (".safetensors", ours, said_wrongly),
        "pt": (".pt", _saved(state), damaged),
        "pt, inside": (".pt", _saved(state), repacked),
        "pt, tensors": (".pt", _saved(state), reshaped),
        "old pt": (".pth", _saved(state, _use_new_zipfile_serialization=False), damaged),
    }


def mutated(plain, rng):
    """Put something else at a random place of plain data."""
    if not isinstance(plain, dict | list) or not plain or rng.random() < 0.2:
        return rng.choice(JUNK)
    key = rng.choice(list(plain) if isinstance(plain, dict) else range(len(plain)))
    new = plain.copy()
    new[key] = mutated(plain[key], rng)
    return new


@pytest.mark.parametrize("form", ["ours", "ours, header", "pt", "pt, inside", "pt, tensors", "old pt"])
@pytest.mark.parametrize("cases", [QUICK, pytest.param(ALL, marks=pytest.mark.slow)], ids=["quick", "all"])
@pytest.mark.filterwarnings("ignore")
def test_contract_damaged_checkpoints_end_in_one_sentence(form, cases, tmp_path):
    ending, content, damage = forms(tmp_path)[form]
    mark, file = tmp_path / "mark", tmp_path / f"weights{ending}"
    evil = [pickle.dumps({"conv1.weight": Evil(mark)}, protocol=protocol) for protocol in (0, 2, 4)]
    evil.append(_saved({"conv1.weight": Evil(mark)}))
    given = {} if form.startswith("ours") else {"image": IMAGE, "classes": 3}
    file.write_bytes(content)
    assert load(file, **given)(torch.rand(1, *IMAGE)).shape == (1, 3)
    before, refused = set(tmp_path.iterdir()), 0
    for case in cases:
        rng = random.Random(f"{form} {case}")
        file.write_bytes(damage(content, rng, rng.choice(evil)))
        try:
            model = load(file, **given)
        except BadInput as error:
            refused += 1
            assert "\n" not in str(error) and 10 < len(str(error)) < 900, (case, str(error))
        else:
            assert torch.isfinite(torch.cat([value.flatten() for value in model.state_dict().values()])).all(), case
        assert set(tmp_path.iterdir()) == before, case
    assert refused > len(cases) / 3


@pytest.mark.parametrize("kind", ["loop", "nothing", "folder", "device", "pipe"])
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_contract_a_link_that_leads_to_no_file_is_refused(tmp_path, kind, ending):
    file = tmp_path / f"weights{ending}"
    if kind == "pipe":
        os.mkfifo(file)
    else:
        targets = {"loop": file, "nothing": tmp_path / "none", "folder": tmp_path, "device": "/dev/zero"}
        file.symlink_to(targets[kind])
    with pytest.raises(BadInput, match=r"there is no checkpoint|is not a run"):
        load(file, image=IMAGE, classes=3)


def test_contract_an_archive_that_unpacks_to_more_than_it_is_is_not_opened(tmp_path):
    file = tmp_path / "bomb.pt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**6))
    with pytest.raises(BadInput, match="it would unpack to more than it is"):
        load(file, image=IMAGE, classes=3)
