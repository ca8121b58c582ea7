"""What the tests of data sets share: a cache of their own, files as the originals are written, a server."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The folder that stands for the user's cache; no data folder is set."""
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("ROBUSTSCAPE_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache" / "robustscape"


@pytest.fixture
def md5():
    return lambda content: hashlib.md5(content, usedforsecurity=False).hexdigest()


def _pickled_text(text):
    return b"T" + len(text).to_bytes(4, "little") + text


def _python2_array(values):
    """A C-contiguous array of bytes as Python 2 and its NumPy wrote it, with protocol 2."""
    shape = b"".join(b"M" + size.to_bytes(2, "little") for size in values.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        + shape
        + b"tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + _pickled_text(values.tobytes())
        + b"tb"
    )


@pytest.fixture
def python2_batch():
    """Pickles a batch as CIFAR's authors did: ``python2_batch(uint8 array, {"labels": [0, 1]})``."""

    def made(data, lists):
        parts = [b"\x80\x02}q\x00(", _pickled_text(b"data"), _python2_array(data)]
        for name, numbers in lists.items():
            parts += [_pickled_text(name.encode()), b"]("]
            parts += [b"K" + bytes([number]) for number in numbers]
            parts += [b"e"]
        parts += [_pickled_text(b"filenames"), b"](", _pickled_text(b"camion_s_000148.png"), b"eu."]
        return b"".join(parts)

    return made


class Served:
    """Files by name, how a request for one is answered, and what was asked for."""

    def __init__(self):
        self.files = {}
        self.cut = {}
        """Bytes after which an answer for a file breaks off, one entry for each of the next requests."""
        self.ranges = True
        self.asked = []
        self.address = ""


@pytest.fixture
def server():
    """Serves bytes on this machine: whole, from a place on, or broken off."""
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name, wanted = self.path.rpartition("/")[2], self.headers.get("Range", "")
            served.asked.append((name, wanted))
            content = served.files.get(name)
            if content is None:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and served.ranges else 0
            if start >= len(content) and start:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            limit = served.cut[name].pop(0) if served.cut.get(name) else len(content)
            self.wfile.write(content[start : start + limit])
            self.wfile.flush()

        def log_message(self, format, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.address = f"http://127.0.0.1:{http.server_address[1]}/"
    yield served
    http.shutdown()
    thread.join()
    http.server_close()
