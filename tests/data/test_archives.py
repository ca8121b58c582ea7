"""Listing folders and zips: links, names, bombs."""

import os
import stat
import struct
import zipfile

import pytest

from robustscape.data.archives import contents, listed
from robustscape.types import BadInput

ENDINGS = (".png", ".jpg")


def zipped(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_contract_hidden_files_and_others_are_left_out(tmp_path):
    files = {"cat/1.png": b"1", "cat/2.JPG": b"22", "cat/.2.png": b"", "__MACOSX/cat/1.png": b"", ".x/3.png": b""}
    names = ["cat/1.png", "cat/2.JPG"]
    source = zipped(tmp_path / "a.zip", files | {"cat/Thumbs.db": b"", "README": b""})
    assert sorted(listed(source, ENDINGS)) == names
    with zipfile.ZipFile(source) as archive:
        archive.extractall(tmp_path / "folder")
    stamps = listed(tmp_path / "folder", ENDINGS)
    assert sorted(stamps) == names and list(contents(tmp_path / "folder", stamps, names)) == [b"1", b"22"]


@pytest.mark.parametrize("name", ["../out/1.png", "/out/1.png", "cat/../../1.png"])
def test_contract_names_that_lead_out_of_a_zip_are_refused(tmp_path, name):
    with pytest.raises(BadInput, match="is a name outside of it"):
        listed(zipped(tmp_path / "a.zip", {name: b"1"}), ENDINGS)


def test_contract_links_in_a_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("cat/1.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(BadInput, match=r"cat/1.png in .* is a link"):
        listed(zipped(tmp_path / "a.zip", {info: "/etc/passwd"}), ENDINGS)


def test_contract_encrypted_files_are_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"cat/1.png": b"1"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="is encrypted"):
        listed(path, ENDINGS)


def test_contract_links_in_a_folder_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.png").write_bytes(b"1")
    folder = tmp_path / "set"
    (folder / "cat").mkdir(parents=True)
    (folder / "cat" / "2.png").symlink_to(tmp_path / "store" / "1.png")
    (folder / "dog").symlink_to(tmp_path / "store")
    assert sorted(listed(folder, ENDINGS)) == ["cat/2.png", "dog/1.png"]
    (folder / "cat" / "again").symlink_to(folder)
    with pytest.raises(BadInput, match="is a link to a folder that is in"):
        listed(folder, ENDINGS)


def test_contract_links_to_nothing_and_things_that_are_no_files_are_refused(tmp_path):
    (tmp_path / "1.png").symlink_to(tmp_path / "nothing")
    with pytest.raises(BadInput, match="a link to nothing"):
        listed(tmp_path, ENDINGS)
    (tmp_path / "1.png").unlink()
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(BadInput, match="is no file"):
        listed(tmp_path, ENDINGS)


def test_contract_a_bomb_is_refused_by_what_it_declares(tmp_path, monkeypatch):
    bomb = zipped(tmp_path / "a.zip", {f"cat/{i}.png": bytes(1 << 18) for i in range(8)})
    assert len(listed(bomb, ENDINGS)) == 8
    monkeypatch.setattr("robustscape.data.archives._UNSUSPECTED", 1 << 20)
    with pytest.raises(BadInput, match="would unpack to 2,097,152: it is not opened"):
        listed(bomb, ENDINGS)
    monkeypatch.undo()
    monkeypatch.setattr("robustscape.data.archives._LARGEST", 1 << 17)
    with pytest.raises(BadInput, match="no image has more than"):
        listed(bomb, ENDINGS)


def test_contract_a_bomb_that_declares_little_gives_no_more_than_that(tmp_path):
    """Its headers say 1,000 bytes; its data unpack to sixteen million."""
    path = zipped(tmp_path / "a.zip", {"cat/1.png": bytes(1 << 24)})
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = content.index(mark) + offset
        content[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)
    stamps = listed(path, ENDINGS)
    assert stamps["cat/1.png"][0] == 1000
    with pytest.raises(BadInput, match=r"cat/1.png in .* is damaged"):
        list(contents(path, stamps, ["cat/1.png"]))


def test_contract_a_file_that_grew_is_refused(tmp_path):
    (tmp_path / "1.png").write_bytes(b"1")
    stamps = listed(tmp_path, ENDINGS)
    (tmp_path / "1.png").write_bytes(b"12")
    with pytest.raises(BadInput, match="it has not the 1 bytes"):
        list(contents(tmp_path, stamps, ["1.png"]))


def test_contract_unknown_compression_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", {"cat/1.png": b"1"})
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(mark) + offset] = 99
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        list(contents(path, listed(path, ENDINGS), ["cat/1.png"]))
