"""Arrays out of pickles: equal to what unpickling gives, and nothing ever runs."""

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from robustscape.data.pickles import arrays
from robustscape.types import BadInput


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "data",
    [
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4) + np.uint8(200),
        np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        np.arange(5, dtype=">i4"),
        np.linspace(-1, 1, 7, dtype=np.float32),
        np.zeros((0, 3), np.uint8),
    ],
    ids=["uint8", "fortran", "big endian", "float", "empty"],
)
def test_reference_equal_to_unpickling(protocol, data):
    document = {"data": data, "labels": [3, 1, 2**40, -7], "name": "batch", "more": (1.5, None, True, [{}])}
    content = pickle.dumps(document, protocol=protocol)
    found = arrays(content, ("data", "labels"), "a file")
    assert np.array_equal(found["data"], data) and found["data"].dtype == data.dtype.newbyteorder("=")
    assert found["labels"].tolist() == document["labels"] and found["labels"].dtype == np.int64


def test_reference_python_2_files_are_as_the_standard_library_reads_them(python2_batch):
    data = np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(2, 300)
    content = python2_batch(data, {"labels": [6, 9]})
    wanted = pickle.loads(content, encoding="latin1")
    assert np.array_equal(wanted["data"], data)
    found = arrays(content, ("data", "labels"), "a file")
    assert np.array_equal(found["data"], wanted["data"]) and found["labels"].tolist() == wanted["labels"]


@pytest.mark.parametrize("protocol", [2, 4])
def test_reference_numbers_of_numpy_in_lists(protocol):
    content = pickle.dumps({"labels": [np.int64(3), np.uint8(4)]}, protocol=protocol)
    assert arrays(content, ("labels",), "a file")["labels"].tolist() == [3, 4]


class Runs:
    def __init__(self, call, *given):
        self.made = (call, given)

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["value", "key", "inside", "unwanted"])
def test_contract_nothing_runs(tmp_path, protocol, place):
    from os import system

    mark = tmp_path / "mark"
    for call, given in ((system, (f"touch {mark}",)), (Path.touch, (mark,)), (eval, ("1 + 1",)), (np.load, ("x",))):
        evil = Runs(call, *given)
        document = {
            "value": {"data": evil},
            "key": {evil: 1, "data": np.zeros(2)},
            "inside": {"data": [evil]},
            "unwanted": {"data": np.zeros(2), "more": evil},
        }[place]
        with pytest.raises(BadInput, match=r"a file (asks for|is more than arrays)"):
            arrays(pickle.dumps(document, protocol=protocol), ("data",), "a file")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a pickle of arrays"),
        (b"no pickle", "is not a pickle of arrays"),
        (pickle.dumps([1, 2]), "it holds a list, not a dict"),
        (pickle.dumps({"date": [1]}), "it has no entry data"),
        (pickle.dumps({"data": [1, "a"]}), "not an array or a list of whole numbers"),
        (pickle.dumps({"data": np.array([{}])}), "an array of 'O8' and not of numbers"),
        (pickle.dumps({"data": np.array(["a"])}), "not of numbers"),
        (pickle.dumps({"data": np.zeros(3)})[:-9], "is not a pickle of arrays"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "is not a pickle"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fab.", "is not a pickle"),  # bytes of a length beyond all memory
        (b"\x80\x02}r\xff\xff\xff\xff.", "it has no entry"),  # a place in the memo that would fill all memory
        (b"(" * 100000 + b".", "is not a pickle"),
        (b"\x80\x02]" + b"]a" * 100000 + b".", "not a dict"),
    ],
)
def test_contract_other_files_are_refused(content, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        arrays(content, ("data",), "a file")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


TWICE = b")" + b"q\x00h\x00\x86" * 100  # a tuple of a tuple twice, of a tuple twice: it takes 2^100 steps to look at
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01"
TYPE = b"cnumpy\ndtype\nU\x02u1\x85R"


@pytest.mark.parametrize(
    "value",
    [
        b"}" + TWICE + b"K\x01s",
        b"}(" + TWICE + b"K\x01u",
        b"(" + TWICE + b"K\x01d",
        b"cnumpy\ndtype\n" + TWICE + b"\x85R",
        TWICE + b"U\x01a\x93",
        RECONSTRUCT + TWICE + TYPE + b"\x89U\x00tb",
        TYPE + b"(K\x03" + TWICE + b"tb",
    ],
    ids=["key", "keys", "dict", "dtype", "global", "shape", "order"],
)
def test_contract_a_small_file_does_not_take_forever(value):
    with pytest.raises(BadInput, match="is not a pickle of arrays"):
        arrays(b"\x80\x02}U\x04data" + value + b"s.", ("data",), "a file")


def test_contract_a_text_that_is_made_bytes_often_takes_no_memory():
    text = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6
    often = b"c_codecs\nencode\nq\x00" + text + b"U\x06latin1\x86q\x01"
    calls = b"h\x00h\x01R" * 3000
    content = b"\x80\x02}(U\x04data]U\x04more](" + often + b"R" + calls + b"eu."
    tracemalloc.start()
    try:
        assert arrays(content, ("data",), "a file")["data"].shape == (0,)
        assert tracemalloc.get_traced_memory()[1] < 10**8  # the calls would make three thousand megabytes
    finally:
        tracemalloc.stop()


def test_contract_an_array_whose_bytes_do_not_fit_its_shape_is_refused():
    content = pickle.dumps({"data": np.zeros((300, 7), np.uint8)}, protocol=2)
    with pytest.raises(BadInput, match="do not make an array"):
        arrays(content.replace(b"M\x2c\x01K\x07", b"M\x2d\x01K\x07"), ("data",), "a file")
