"""MNIST: idx bytes by hand, the real files where they are, and every way in which files can fail."""

import gzip
import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
import torch

from robustscape.data import sources
from robustscape.data.mnist import MNIST, idx
from robustscape.types import BadInput, DataSource

SHARED = Path(os.environ.get("ROBUSTSCAPE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens


def written_idx(shape: tuple[int, ...], values: bytes) -> bytes:
    return bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape) + values


def small_files() -> dict[str, bytes]:
    """Files of MNIST's form: 200 training and 40 test images, pixel value = number, label = number % 10."""
    files = {}
    for split, n in (("train", 200), ("test", 40)):
        files[f"{split} images"] = written_idx((n, 28, 28), b"".join(bytes([i]) * 784 for i in range(n)))
        files[f"{split} labels"] = written_idx((n,), bytes(i % 10 for i in range(n)))
    return files


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Put small files into tmp_path/data/mnist in place of MNIST's; no network, an empty cache."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    paths, described = {}, {}
    for key, content in small_files().items():
        paths[key] = folder / f"{sources.MNIST[key].file}.gz"
        paths[key].write_bytes(gzip.compress(content, mtime=0))
        described[key] = replace(
            sources.MNIST[key],
            addresses=(f"{NOWHERE}{paths[key].name}",),
            archive_md5=md5(paths[key].read_bytes()),
            content_md5=md5(content),
        )
    monkeypatch.setattr(sources, "MNIST", described)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("ROBUSTSCAPE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield paths


def root(small: dict[str, Path]) -> Path:
    return small["train images"].parents[1]


def test_closed_form_idx_bytes():
    array = idx(written_idx((2, 1, 3), bytes([1, 2, 3, 4, 5, 255])), "a file")
    assert array.tolist() == [[[1, 2, 3]], [[4, 5, 255]]]
    assert array.flags.writeable


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not an idx file"),
        (b"\x1f\x8b\x08\x00rest", "begins with 1f 8b 08 00"),
        (bytes((0, 0, 13, 1, 0, 0, 0, 0)), "unsigned bytes"),
        (written_idx((2, 2), b"abc"), "cut short"),
        (written_idx((2, 2), b"abcd")[:7], "cut short"),
    ],
)
def test_closed_form_idx_bytes_that_are_wrong(content: bytes, sentence: str):
    with pytest.raises(BadInput, match=sentence):
        idx(content, "a file")


@pytest.mark.parametrize("where", ["data_dir", "its mnist", "environment", "environment's mnist", "raw"])
def test_contract_files_are_found(small: dict[str, Path], where: str, monkeypatch: pytest.MonkeyPatch):
    folder = root(small) if where in ("data_dir", "environment's mnist") else root(small) / "mnist"
    if where == "raw":
        for path in small.values():
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    if where.startswith("environment"):
        monkeypatch.setenv("ROBUSTSCAPE_DATA", str(folder))
        splits = MNIST(validation=50).load(seed=0)
    else:
        splits = MNIST(validation=50, data_dir=str(folder)).load(seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (150, 50, 40)
    for images in (splits.train, splits.validation, splits.test):
        assert images.x.shape[1:] == (1, 28, 28) and images.x.dtype == torch.uint8
        assert torch.equal(images.x[:, 0, 0, 0].long(), images.index)
        assert torch.equal(images.y, images.index % 10)
        assert images.classes == tuple("0123456789")


def test_contract_classes_and_per_class(small: dict[str, Path]):
    source = MNIST(classes=(7, 3), per_class=4, validation=0.25, data_dir=str(root(small)))
    splits = source.load(seed=0)
    assert torch.bincount(splits.train.y).tolist() == [4, 4]
    assert torch.bincount(splits.validation.y).tolist() == [5, 5]
    assert torch.bincount(splits.test.y).tolist() == [4, 4]
    for images in (splits.train, splits.validation, splits.test):
        assert [(7, 3)[label] for label in images.y.tolist()] == (images.index % 10).tolist()
        assert images.classes == ("7", "3")
    assert splits.test.name == "MNIST (classes 7, 3), test"
    assert not torch.equal(splits.train.index, source.load(seed=1).train.index)
    assert isinstance(source, DataSource)


@pytest.mark.parametrize(
    "fields", [{"classes": (3,)}, {"classes": (3, 3)}, {"classes": (3, 10)}, {"per_class": 0}, {"validation": 1.0}]
)
def test_contract_impossible_fields_are_refused(fields: dict):
    with pytest.raises(BadInput):
        MNIST(**fields)


def test_contract_more_per_class_than_there_are_is_refused(small: dict[str, Path]):
    with pytest.raises(BadInput, match=r"per_class is 30, but class '0' has 15 training images"):
        MNIST(per_class=30, validation=50, data_dir=str(root(small))).load(seed=0)


def test_contract_a_truncated_archive_is_refused(small: dict[str, Path]):
    path = small["train images"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"train-images.*damaged or was cut short.*fetch it again"):
        MNIST(data_dir=str(root(small))).load(seed=0)


@pytest.mark.parametrize("place", [0, 12, -6], ids=["header", "data", "checksum"])
def test_contract_an_altered_archive_is_refused(small: dict[str, Path], place: int):
    path = small["train labels"]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"train-labels.*(damaged|altered)"):
        MNIST(data_dir=str(root(small))).load(seed=0)


def test_contract_altered_content_in_a_sound_archive_is_refused(small: dict[str, Path]):
    path = small["test labels"]
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))
    with pytest.raises(BadInput, match=r"t10k-labels.*altered.*MD5"):
        MNIST(data_dir=str(root(small))).load(seed=0)


def test_contract_missing_without_a_network_says_where_to_put_which_file(small: dict[str, Path], tmp_path: Path):
    small["test images"].unlink()
    with pytest.raises(BadInput) as caught:
        MNIST(data_dir=str(root(small))).load(seed=0)
    sentence = str(caught.value)
    assert f"put it into {root(small) / 'mnist'}" in sentence and "t10k-images-idx3-ubyte.gz" in sentence
    assert "ROBUSTSCAPE_DATA" in sentence and "\n" not in sentence
    with pytest.raises(BadInput, match=f"put it into {tmp_path / 'cache' / 'robustscape' / 'mnist'}"):
        MNIST().load(seed=0)


def test_contract_a_data_dir_that_is_not_there_is_refused(small: dict[str, Path], tmp_path: Path):
    with pytest.raises(BadInput, match="is not a folder"):
        MNIST(data_dir=str(tmp_path / "nothing")).load(seed=0)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(small: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """Serve the small files on this machine, the first address of each dead."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root(small) / "mnist")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    live = {k: replace(s, addresses=(*s.addresses, f"{address}{s.file}.gz")) for k, s in sources.MNIST.items()}
    monkeypatch.setattr(sources, "MNIST", live)
    yield small
    server.shutdown()
    thread.join()
    server.server_close()


def test_end_to_end_downloaded_once_into_the_cache(served: dict[str, Path], tmp_path: Path):
    first = MNIST(validation=50).load(seed=0)
    assert len(list((tmp_path / "cache" / "robustscape" / "mnist").glob("*.gz"))) == 4
    for path in served.values():
        path.unlink()
    second = MNIST(validation=50).load(seed=0)
    assert torch.equal(first.train.x, second.train.x) and len(first.train) == 150


def test_end_to_end_an_altered_download_is_refused_and_not_kept(served: dict[str, Path], tmp_path: Path):
    path = served["train images"]
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(BadInput, match="sends an altered file"):
        MNIST().load(seed=0)
    assert not list((tmp_path / "cache").rglob("*.gz"))


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the real files are not on this machine")
def test_reference_the_real_files():
    splits = MNIST(data_dir=str(SHARED)).load(seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (59000, 1000, 10000)
    # class sizes of the test set, as published
    assert torch.bincount(splits.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # mean of the 60,000 training images, 0.1307, as everybody's normalisation has it
    total = splits.train.x.sum(dtype=torch.int64) + splits.validation.x.sum(dtype=torch.int64)
    assert abs(float(total) / (60000 * 784 * 255) - 0.1307) < 5e-5
