"""What `robustscape info` says of earlier decisions."""

from __future__ import annotations

import json

from robustscape.cli import main
from robustscape.runtime.remembering import cache_file

OLD = {"precision": "float32", "compile": "no", "threads": 2, "processes": 1, "milliseconds": {}, "reason": "as ever"}
NEW = OLD | {
    "format": "channels_last",
    "batch": 128,
    "micro_batch": 32,
    "checkpointing": True,
    "ranks": 2,
    "processes": 2,
    "milliseconds": {"float32, 2 threads": 7.5},
    "reason": "too little work for a trial",
}


def test_contract_info_shows_what_was_decided_and_skips_what_another_version_kept(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    about = {"model": "LeNet", "parameters": 1234, "shape": [128, 1, 28, 28], "seconds": 0.1}
    entries = {
        "a": about | {"decisions": {"none": NEW, "eager": OLD, "compiled": OLD | {"tiles": 3}}},
        "b": {"model": "Later", "choices": {}},
        "c": 3,
    }
    cache_file().parent.mkdir(parents=True, exist_ok=True)
    cache_file().write_text(json.dumps(entries))
    assert main(["info", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    lines = {line.partition("  ")[0]: line.rpartition("  ")[2] for line in text.splitlines()}
    name = "LeNet of 1,234 parameters, batch 128x1x28x28, trials"
    assert lines[f"{name} none"] == (
        "float32, channels last, 2 threads, not compiled, 2 processes side by side are faster, 2 ranks, "
        "32 of 128 examples at once, activations computed again: too little work for a trial "
        "(float32, 2 threads 7.5 ms)"
    )
    assert lines[f"{name} eager"] == "float32, channels last, 2 threads, not compiled: as ever (not timed)"
    assert "compiled" not in {line.rpartition(" ")[2] for line in lines} and "Later" not in text
