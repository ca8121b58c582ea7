"""A headless Chromium over its remote-debugging pipe: the little of it that tests of a page need."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time


def found():
    """The program, None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Tab:
    """One page. ``events`` holds everything the browser said, in order."""

    def __init__(self, process, to, back):
        self.process, self.to, self.back = process, to, back
        self.rest, self.events, self.count, self.session = b"", [], 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read()
            if reply.get("id") == self.count:
                assert "error" not in reply, reply["error"]
                return reply["result"]
            self.events.append(reply)

    def _read(self, seconds=60):
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.back], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser did not answer"
            data = os.read(self.back, 1 << 20)
            assert data, "the browser has gone"
            self.rest += data
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def run(self, script):
        """Run JavaScript, waiting for a promise; return its value."""
        reply = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def look(self, *, width, height=900, dark=False):
        """Set the width of the window, in CSS pixels, and the reader's colour scheme."""
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path):
        """Load a file and wait until its charts are drawn."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.run("""new Promise(done => {
            const there = () => document.documentElement?.hasAttribute("data-drawn") ? done() : setTimeout(there, 50);
            there();
        })""")

    def errors(self):
        """Everything that a developer would see as an error or warning in the console."""
        bad = []
        for event in self.events:
            kind, what = event.get("method"), event.get("params", {})
            if kind == "Runtime.exceptionThrown":
                bad.append(what["exceptionDetails"].get("exception", {}).get("description", "exception"))
            if kind == "Runtime.consoleAPICalled" and what["type"] in {"error", "warning", "assert"}:
                bad.append(str(what["args"]))
            if kind == "Log.entryAdded" and what["entry"]["level"] in {"error", "warning"}:
                bad.append(what["entry"]["text"])
        return bad

    def requests(self):
        """Addresses of everything that was asked for, data and blob addresses left out."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("data:", "blob:"))]


def _pipe():
    """A pipe whose ends are none of the descriptors that the browser uses."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends)
    for end in ends:
        os.close(end)
    return high


@contextlib.contextmanager
def browser(program):
    """Start the browser with one empty tab; it is gone, with its profile, after the block."""
    child_in, to = _pipe()
    back, child_out = _pipe()
    # The browser reads commands from descriptor 3 and answers on 4.
    start = f"import os, sys; os.dup2({child_in}, 3); os.dup2({child_out}, 4); os.execv(sys.argv[1], sys.argv[1:])"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
             "--remote-debugging-pipe"]  # fmt: skip
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [sys.executable, "-c", start, program, *flags, f"--user-data-dir={profile}"],
            pass_fds=(child_in, child_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_in)
        os.close(child_out)
        try:
            yield Tab(process, to, back)
        finally:
            process.terminate()
            process.wait(timeout=30)
            os.close(to)
            os.close(back)
