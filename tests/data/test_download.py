"""Downloads from a server on this machine: whole, gone on with, altered, at once, onto a full disk."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from robustscape.data.download import download
from robustscape.data.sources import Source
from robustscape.types import BadInput

CONTENT = bytes(range(256)) * 1024
FULL = Path("/dev/full")


@pytest.fixture
def wanted(server, md5):
    """Serves one file and describes it."""
    server.files["set.bin"] = CONTENT
    return Source(file="set.bin", addresses=(f"{server.address}set.bin",), archive_md5=md5(CONTENT), gzipped=False)


def test_contract_a_file_comes_whole_and_once(wanted, server, tmp_path):
    path = download(wanted, tmp_path / "c", put=tmp_path)
    assert path == tmp_path / "c" / "set.bin" and path.read_bytes() == CONTENT
    assert download(wanted, tmp_path / "c", put=tmp_path) == path
    assert server.asked == [("set.bin", "")]


def test_contract_a_download_that_breaks_off_goes_on_where_it_stopped(wanted, server, tmp_path):
    server.cut["set.bin"] = [98_304, 49_152 + 5]  # six chunks, then three
    assert download(wanted, tmp_path, put=tmp_path).read_bytes() == CONTENT
    assert server.asked == [("set.bin", ""), ("set.bin", "bytes=98304-"), ("set.bin", "bytes=147456-")]
    assert not list(tmp_path.glob("*.part"))


def test_contract_a_killed_download_is_gone_on_with_later(wanted, server, tmp_path):
    server.cut["set.bin"] = [32_768, *[0] * 9]
    with pytest.raises(BadInput, match=r"set.bin was not found and cannot be downloaded \(no answer from"):
        download(wanted, tmp_path, put=tmp_path)
    assert not (tmp_path / "set.bin").exists() and (tmp_path / "set.bin.part").stat().st_size == 32_768
    server.cut.clear()
    assert download(wanted, tmp_path, put=tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("set.bin", "bytes=32768-")


def test_contract_one_that_breaks_off_again_and_again_says_so(wanted, server, tmp_path):
    server.cut["set.bin"] = [16_384] * 9
    with pytest.raises(BadInput, match="breaks off again and again; the same command goes on from there"):
        download(wanted, tmp_path, put=tmp_path)
    assert not (tmp_path / "set.bin").exists()


def test_contract_a_server_that_knows_no_ranges_is_asked_for_all(wanted, server, tmp_path):
    server.ranges, server.cut["set.bin"] = False, [100_000]
    assert download(wanted, tmp_path, put=tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize("size", [500, len(CONTENT), 2 * len(CONTENT)])
def test_contract_a_part_of_another_file_is_thrown_away(wanted, tmp_path, size):
    (tmp_path / "set.bin.part").write_bytes(b"x" * size)
    assert download(wanted, tmp_path, put=tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT + b"more", CONTENT[:-1], b""])
def test_contract_an_altered_file_is_refused_and_not_kept(wanted, server, tmp_path, content):
    server.files["set.bin"] = content
    with pytest.raises(BadInput, match="sends an altered file"):
        download(wanted, tmp_path, put=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_contract_a_damaged_file_in_the_cache_is_fetched_anew(wanted, tmp_path):
    (tmp_path / "set.bin").write_bytes(CONTENT[:-5])
    assert download(wanted, tmp_path, put=tmp_path).read_bytes() == CONTENT


def test_contract_the_next_address_is_tried(wanted, server, tmp_path):
    dead = ("http://127.0.0.1:9/set.bin", f"{server.address}nothing.bin")
    source = replace(wanted, addresses=(*dead, *wanted.addresses))
    assert download(source, tmp_path, put=tmp_path).read_bytes() == CONTENT
    with pytest.raises(BadInput) as caught:
        download(replace(wanted, file="b", addresses=dead), tmp_path, put=tmp_path / "here")
    sentence = str(caught.value)
    assert "\n" not in sentence and all(address in sentence for address in dead)
    assert f"put it into {tmp_path / 'here'}" in sentence and "ROBUSTSCAPE_DATA" in sentence


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_contract_a_full_disk_is_said_and_leaves_nothing(wanted, tmp_path):
    (tmp_path / "set.bin.part").symlink_to(FULL)
    with pytest.raises(BadInput, match=r"cannot be written \(No space left on device\); make room there"):
        download(wanted, tmp_path, put=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_contract_a_file_in_the_place_of_the_cache_is_said(wanted, tmp_path):
    (tmp_path / "c").write_text("")
    with pytest.raises(BadInput, match="cannot be written"):
        download(wanted, tmp_path / "c", put=tmp_path)


def test_contract_two_at_once_download_once(wanted, server, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(download(wanted, tmp_path, put=tmp_path))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "set.bin"] * 2 and len(server.asked) == 1
