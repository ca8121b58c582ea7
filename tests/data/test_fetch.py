"""Where files are looked for, and what is taken for the original."""

import gzip

import pytest

from robustscape.data.fetch import find, read
from robustscape.data.sources import Source
from robustscape.types import BadInput

CONTENT = b"the content " * 100
GZIPPED = gzip.compress(CONTENT, mtime=0)


@pytest.fixture
def source(md5):
    """A gzipped original that cannot be downloaded; only its own MD5 is known."""
    return Source(file="set.bin", addresses=("http://127.0.0.1:9/set.bin.gz",), archive_md5=md5(GZIPPED))


def test_contract_the_data_sets_own_folder_comes_first(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "set.bin.gz").write_bytes(b"another data set's file of this name")
    (tmp_path / "mine" / "set.bin.gz").write_bytes(GZIPPED)
    assert read(source, "mine", str(tmp_path)) == CONTENT


def test_contract_where_only_the_original_is_known_another_wrapper_is_refused(source, tmp_path):
    (tmp_path / "set.bin.gz").write_bytes(gzip.compress(CONTENT, compresslevel=1, mtime=1))
    with pytest.raises(BadInput, match="altered or cut short, or is another file"):
        read(source, "mine", str(tmp_path))


def test_contract_a_gzipped_bomb_is_not_unpacked(monkeypatch, md5, tmp_path):
    monkeypatch.setattr("robustscape.data.fetch._MOST", 1 << 20)
    bomb = Source(file="set.bin", addresses=(), archive_md5="0", content_md5="1")
    (tmp_path / "set.bin.gz").write_bytes(gzip.compress(bytes(1 << 22)))
    with pytest.raises(BadInput, match="unpacks to more than 1,048,576 bytes"):
        read(bomb, "mine", str(tmp_path))


def test_contract_a_file_that_is_not_gzipped_is_read_as_it_is(md5, tmp_path):
    plain = Source(file="set.mat", addresses=(), archive_md5=md5(CONTENT), gzipped=False)
    (tmp_path / "set.mat").write_bytes(CONTENT)
    assert read(plain, "mine", str(tmp_path)) == CONTENT


def test_contract_a_thing_is_found_by_path_by_name_and_without_its_ending(tmp_path, monkeypatch):
    (tmp_path / "photos.zip").write_bytes(b"")
    assert find(str(tmp_path / "photos"), holding="x", ending=".zip") == tmp_path / "photos.zip"
    monkeypatch.setenv("ROBUSTSCAPE_DATA", str(tmp_path))
    assert find("photos.zip", holding="x", what="file") == tmp_path / "photos.zip"
    with pytest.raises(BadInput, match=r"there is no file 'photo', .* put this into .*photo$"):
        find("photo", holding="this", what="file")
