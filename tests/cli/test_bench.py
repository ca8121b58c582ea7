"""`robustscape bench` as a user meets it."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from robustscape.benches.result import BenchResult, Spread
from robustscape.cli import bench, main
from robustscape.results import load, save

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto" / "bench.md"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The folder of an earlier quick bench, and its file."""
    folder = tmp_path_factory.mktemp("earlier")
    assert main(["bench", "attack", "--quick", "--out", str(folder)]) == 0
    (file,) = folder.iterdir()
    return file


def _changed(file, out, factor):
    """Write the result as it would be had every ratio been so much larger."""
    result = load(file)
    more = {
        name: Spread(**{key: factor * value for key, value in vars(ratio).items()})
        for name, ratio in result.ratios.items()
    }
    return save(replace(result, ratios=more), out / file.name)


def test_end_to_end_a_quick_bench_is_shown_and_written(earlier, capsys, tmp_path):
    assert earlier.name == "bench-attack-quick.json"
    assert isinstance(load(earlier), BenchResult)
    words = ["bench", "train", "weights", "--quick", "--width", "1", "--pairs", "1", "--out", str(tmp_path)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "train: LeNet(1), batch 4" in text
    assert "naive loop" in text and "ours / theirs" in text and "AT-AWP / AT" in text
    names = {"bench-train-quick-width-1.json", "bench-weights-quick-width-1.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(str(tmp_path / name) in text for name in names)


def test_end_to_end_what_became_slower_is_flagged_and_the_exit_code_is_1(earlier, capsys, tmp_path):
    better = _changed(earlier, tmp_path, 1e6)
    with pytest.raises(SystemExit) as end:
        main(["bench", "attack", "--quick", "--compare", str(better), "--out", str(tmp_path / "new")])
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.endswith("SLOWER") and "was" in line for line in lines if "ours / theirs" in line)
    assert any("ours / theirs" in line for line in lines)
    assert (tmp_path / "new" / better.name).exists()


def test_end_to_end_what_became_faster_is_not(earlier, capsys, tmp_path):
    worse = _changed(earlier, tmp_path, 1e-6)
    words = ["bench", "attack", "--quick", "--steps", "1", "--out", str(tmp_path / "new")]
    assert main([*words, "--compare", str(worse)]) == 0
    text = capsys.readouterr().out
    assert "was" in text and "SLOWER" not in text
    assert "measured on something else: LeNet(2), batch 4, PGD-2" in text


@pytest.mark.slow
def test_contract_a_folder_is_compared_with_by_file_name(earlier, tmp_path):
    options = bench._options(bench.benches()["attack"], "attack", ["--quick", "--compare", str(earlier.parent)])
    assert bench._earlier(options, earlier.name) == load(earlier)
    assert bench._earlier(options, "bench-attack.json") is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["atack"], "did you mean attack"),
        (["attack", "--width", "0"], "width must be at least 1"),
        (["attack", "--eps", "8"], "did you mean 8/255"),
        (["attack", "--pairs", "0"], "pairs must be at least 1"),
        (["attack", "--compare", "nowhere.json"], "there is no file nowhere.json"),
        (["attack", "--compare", "."], "holds no earlier result of attack"),
    ],
)
def test_contract_bad_input_is_one_sentence_before_anything_runs(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "follow", lambda *_, **__: pytest.fail("nothing may run"))
    assert main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_contract_another_bench_is_not_compared_with(earlier, capsys, monkeypatch):
    monkeypatch.setattr(bench, "follow", lambda *_, **__: pytest.fail("nothing may run"))
    assert main(["bench", "train", "--quick", "--compare", str(earlier)]) == 2
    assert "holds no earlier result of train" in capsys.readouterr().err


def test_contract_help_lists_the_benches_and_explains_one(capsys):
    assert main(["bench", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("attack", "train", "weights", "growth", "start", "evaluate"))
    with pytest.raises(SystemExit) as end:
        main(["bench", "attack", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--width", "--pairs", "--device", "--compare", "--quick"))


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "bench-attack.json"),
        (["--pairs", "9", "--warmup", "1"], "bench-attack.json"),
        (["--width", "16", "--eps", "4/255"], "bench-attack-width-16-eps-4_255.json"),
        (["--precision", "float32", "--quick"], "bench-attack-quick-precision-float32.json"),
    ],
)
def test_contract_a_file_is_named_by_what_was_changed(words, name):
    assert bench.file_name(bench._options(bench.benches()["attack"], "attack", words)) == name


def test_contract_the_commands_of_the_guide_are_understood(monkeypatch, tmp_path):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "follow", lambda work, *, name: asked.append(name))
    monkeypatch.setattr(bench, "table", lambda *_: [])
    monkeypatch.setattr(bench, "save", lambda result, path: path)
    monkeypatch.setattr(bench, "_earlier", lambda *_: "an earlier result")
    monkeypatch.setattr(bench, "slower", lambda *_: ())
    commands = re.findall(r"^\.venv-peers/bin/robustscape (bench.*?)(?:  #.*)?$", HOWTO.read_text(), re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        asked.clear()
        assert main(shlex.split(command)) == 0
        assert asked
