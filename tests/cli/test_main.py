"""The command line as a user meets it, in this process."""

import errno
import json
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file

from robustscape import __version__, cli
from robustscape.cli import VERBS, display, main
from robustscape.cli import recipes as recipes_verb
from robustscape.cli.recipes import recipe, recipes
from robustscape.config import members
from robustscape.recipes import execute
from robustscape.recipes.run import Run
from robustscape.results import load
from robustscape.types import Diverged

TINY = ["--training.epochs", "1", "--training.track", "20", "--model.width", "2", "--objective.attack.steps", "1"]
QUICK = ["--n", "20", "--steps", "2", "--restarts", "1", "--loss-steps", "1", "--loss-restarts", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of a tiny training."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "digits_at", *TINY, "--seeds", "0,1", "--out", str(folder)]) == 0
    return folder


def refused(capsys, *words):
    """Run a command that must be refused in one sentence; return the sentence."""
    assert main(list(words)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("robustscape: ")
    assert err.count("\n") == 1
    return err


# -- finding one's way ---------------------------------------------------------------------------------


def test_contract_the_overview_names_every_verb(capsys):
    for words in ([], ["--help"], ["help"]):
        assert main(words) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {verb} " in text for verb in VERBS)


def test_contract_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"robustscape {__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_contract_every_verb_explains_itself(verb, capsys):
    try:
        code = main([verb, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code == 0
    assert f"usage: robustscape {verb}" in capsys.readouterr().out


def test_contract_recipes_are_listed_with_their_first_line(capsys):
    assert main(["recipes", "--no-times"]) == 0
    lines = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert len(lines) == len(recipes())
    assert any(line.startswith("digits_at ") and "adversarially" in line for line in lines)


@pytest.mark.parametrize("name", recipes())
def test_contract_every_recipe_gives_a_run(name):
    assert isinstance(recipe(name), Run)


def test_contract_only_public_functions_of_the_room_that_return_a_run_are_recipes():
    assert {"digits_at", "digits_natural", "digits_at_awp", "mnist_at"} <= set(recipes())
    assert not {"train", "replace", "recipe"} & set(recipes())
    assert recipe("digits-at") == recipe("digits_at")


def test_contract_info_says_what_a_number_depends_on(capsys, tmp_path):
    (tmp_path / "mnist").mkdir()
    assert main(["info", "--device", "cpu", "--precision", "float32", "--data-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("torch", "python", "device", "threads", "float32", f"{tmp_path} (mnist)"))


# -- train ---------------------------------------------------------------------------------------------


def test_contract_a_dry_run_shows_the_whole_run_and_writes_nothing(capsys, tmp_path):
    out = tmp_path / "run"
    words = ["--objective.attack.threat.eps", "4/255", "--weights", "awp", "--out", str(out), "--dry-run"]
    assert main(["train", "mnist_at", *words]) == 0
    text = capsys.readouterr().out
    for line in ("data: MNIST", "weights: AWP", "eps: 4/255", "step_size: 0.01", "epochs: 5", "classes: none"):
        assert line in text
    assert str(out) in text.replace("\n", "")
    assert list(tmp_path.iterdir()) == []


def test_end_to_end_training_again_goes_on_and_another_run_is_refused(trained, capsys):
    assert sorted(path.name for path in trained.iterdir()) == ["seed-0", "seed-1"]
    assert json.loads((trained / "seed-1" / "run.json").read_text())["run"]["seed"] == 1
    before = (trained / "seed-0" / "checkpoints" / "last.safetensors").read_bytes()
    assert main(["train", "digits_at", *TINY, "--seed", "0", "--out", str(trained / "seed-0")]) == 0
    assert (trained / "seed-0" / "checkpoints" / "last.safetensors").read_bytes() == before
    capsys.readouterr()
    words = [*TINY, "--training.batch-size", "32", "--out", str(trained / "seed-0")]
    assert "batch_size" in refused(capsys, "train", "digits_at", *words)
    assert "single run" in refused(capsys, "train", "digits_at", "--seeds", "0", "--out", str(trained / "seed-0"))


def test_end_to_end_a_pipe_sees_one_plain_line_an_epoch(capsys, tmp_path):
    words = [*TINY, "--training.epochs", "2", "--training.track-every", "1", "--out", str(tmp_path / "run")]
    assert main(["train", "digits_at", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines[:2]] == ["epoch 1/2", "epoch 2/2"]
    assert all("\x1b" not in line and "robust" in line and "loss" in line for line in lines[:2])
    assert lines[-1] == f"digits_at is trained: {tmp_path / 'run'}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trian"], "did you mean train"),
        (["train"], "needs the name of a recipe"),
        (["train", "--out", "x"], "needs the name of a recipe"),
        (["train", "digit_at"], "did you mean digits_at"),
        (["train", "digits_at", "--objective.attack.threat.eps", "8"], "did you mean 8/255"),
        (["train", "digits_at", "--weights", "apw"], "did you mean awp"),
        (["train", "digits_at", "--seeds", "0,0"], "named twice"),
        (["train", "digits_at", "--processes", "2"], "share the training with --devices 2"),
        (["train", "digits_at", "--seed", "5", "--seeds", "0,1"], "leave one of the two out"),
        (["train", "digits_at", "--processes", "-1"], "at least 0"),
        (["train", "digits_at", "--training.epochs", "0"], "at least 1"),
        (["train", "mnist_at", "--data-dir", "no/such/folder"], "--data-dir must name a folder"),
        (["train", "mnist_at", "--data-dir"], "--data-dir must name a folder"),
        (["evaluate"], "robustscape evaluate SOURCE"),
        (["evaluate", "no_such_run"], "there is no model 'no_such_run'"),
        (["evaluate", "robustscape.models.linear:Linear", "--eps", "8", "--data", "digits"], "did you mean 8/255"),
        (["evaluate", "robustscape.config:members"], "say which data"),
        (["evaluate", "robustscape.config:members", "--json", "--csv"], "exclude each other"),
        (
            ["measure", "robustscape.models.linear:Linear", "flatness", "--batch-size", "0"],
            "batch_size must be at least 1",
        ),
        (["measure", "no_such_run"], "needs sources and measurements"),
        (["measure", "flatness"], "needs sources and measurements"),
        (["measure", "run", "flatnes"], "did you mean flatness"),
        (["measure", "no_such_run", "flatness"], "there is no model 'no_such_run'"),
        (["figure"], "needs runs"),
        (["figure", "no_such_run"], "no_such_run"),
        (["report"], "needs runs"),
        (["report", "no_such_run"], "no_such_run"),
    ],
)
def test_contract_bad_input_is_one_sentence_and_writes_nothing(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["train", "digits_at", "--sed", "1"], ["train", "digits_at", "--seeds", "x"]])
def test_contract_parse_errors_exit_with_2_in_their_box(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert words[2] in err
    assert "For full helptext" in err  # the last line of tyro's box
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (Diverged("epoch 3, step 7: the loss is nan"), 1, "epoch 3, step 7: the loss is nan"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from here"),
        (OSError(errno.ENOSPC, "No space left on device", "x/y"), 2, "the disk is full: x/y"),
        (PermissionError(errno.EACCES, "Permission denied", "x/y"), 2, "permission denied: x/y"),
    ],
)
def test_contract_what_stops_a_training_is_said_in_one_sentence(error, code, sentence, capsys, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise error
        yield

    monkeypatch.setattr(execute, "train", broken)
    assert main(["train", "digits_at", "--out", str(tmp_path / "run")]) == code
    err = capsys.readouterr().err
    assert err.startswith(f"robustscape: {sentence}")
    assert err.count("\n") == 1


def test_contract_a_mistake_of_our_own_keeps_its_traceback(monkeypatch):
    def broken(_):
        raise FileNotFoundError(errno.ENOENT, "No such file")

    monkeypatch.setattr(recipes_verb, "main", broken)
    with pytest.raises(FileNotFoundError):
        main(["recipes"])


def test_contract_a_warning_is_one_line(monkeypatch, capsys):
    before = warnings.showwarning

    def warned(_):
        warnings.simplefilter("default")
        warnings.warn("the batch is worked through\nin parts", stacklevel=2)

    monkeypatch.setattr(recipes_verb, "main", warned)
    assert main(["recipes"]) == 0
    assert capsys.readouterr().err == "robustscape: the batch is worked through in parts\n"
    assert warnings.showwarning is before


def test_contract_data_dir_holds_for_one_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ROBUSTSCAPE_DATA", "before")
    assert main(["info", f"--data-dir={tmp_path}"]) == 0
    assert str(tmp_path) in capsys.readouterr().out
    assert cli.os.environ["ROBUSTSCAPE_DATA"] == "before"


# -- evaluate, measure, figure, report -----------------------------------------------------------------


def test_end_to_end_a_run_is_evaluated_measured_drawn_and_reported(trained, capsys, tmp_path):
    assert main(["evaluate", str(trained), *QUICK, "--images", "2", "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + 2 * 2 * 2  # seeds, checkpoints, splits
    results = trained / "seed-0" / "results"
    names = {"evaluation-last-test", "evaluation-last-train", "evaluation-best-test", "evaluation-best-train"}
    assert {path.stem for path in results.glob("*.json")} == names | {"images-last", "images-best"}
    plain = json.loads((results / "evaluation-last-test.json").read_text())["result"]
    assert plain["eps"] == 0.1  # the run's own
    assert plain["robust_error"]["n"] == 20

    own = (results / "evaluation-last-test.json").read_bytes()
    assert (
        main(["evaluate", str(trained / "seed-0"), *QUICK, "--eps", "0.05", "--splits", "test", "--images", "0"]) == 0
    )
    assert (results / "evaluation-last-test.json").read_bytes() == own  # another threat's numbers lie beside
    fewer = [*QUICK, "--n", "6", "--splits", "test", "--images", "0", "--checkpoint", "last"]
    assert main(["evaluate", str(trained / "seed-0"), *fewer]) == 0  # so do those of fewer images
    assert (results / "evaluation-last-test.json").read_bytes() == own
    assert load(results / "evaluation-last-test-of-6.json").robust_error.n == 6
    beside = json.loads((results / "evaluation-last-test-under-linf-0.05.json").read_text())["result"]
    assert beside["eps"] == 0.05
    assert main(["evaluate", str(trained / "seed-0"), *QUICK, "--out", str(results / "images-last.json")]) == 2
    assert "a file is where a folder should be" in capsys.readouterr().err

    one = [str(trained / "seed-0"), *QUICK, "--images", "0", "--checkpoint", "last"]
    assert main(["evaluate", *one, "--keep-adversarial", "--surrogate", str(trained / "seed-1"), "--json"]) == 0
    for result in json.loads(capsys.readouterr().out):
        assert ("transfer" in [finding["name"] for finding in result["findings"]]) == (result["split"] == "test")
    kept = results / "adversarial-last-test.safetensors"
    assert main(["evaluate", *one[:-1], "best", "--transfer", str(kept), "--json"]) == 0
    (carried,) = json.loads(capsys.readouterr().out)
    assert carried["split"] == "test" and [search["name"] for search in carried["searches"]] == ["Transfer"]
    assert "of the split test, not of train" in refused(
        capsys, "evaluate", *one, "--transfer", str(kept), "--splits", "train"
    )
    words = ["--n", "20", "--flatness.samples", "2", "--flatness.attack.steps", "1"]
    assert main(["measure", str(trained / "seed-0"), "flatness", "histograms", *words]) == 0
    assert "robust" in capsys.readouterr().out
    flat = json.loads((results / "flatness-last.json").read_text())["result"]
    assert flat["provenance"]["settings"]["attack"]["threat"]["eps"] == 0.1  # what judges the run
    assert (results / "histograms-last.json").exists()
    assert main(["measure", str(trained / "seed-0"), "flatness", *words, "--split", "train"]) == 0
    assert "flatness-last-train.json" in capsys.readouterr().out  # the other one stays
    splits = [load(results / f"flatness-last{name}.json").split for name in ("", "-train")]
    assert splits == ["test", "train"]

    assert main(["figure", str(trained / "seed-0")]) == 0
    drawn = capsys.readouterr().out.splitlines()
    assert drawn and all((trained / "seed-0" / "figures").samefile(cli.Path(path).parent) for path in drawn)
    page = tmp_path / "page.html"
    assert main(["report", str(trained), "--out", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    assert "digits_at" in page.read_text()


@pytest.mark.slow
def test_contract_a_run_is_judged_on_its_own_splits_whatever_the_seed(trained, capsys, tmp_path):
    words = [*QUICK, "--n", "none", "--loss-restarts", "0", "--restarts", "0", "--images", "0", "--checkpoint", "last"]
    found = []
    for seed in ("0", "5"):
        out = tmp_path / seed
        assert main(["evaluate", str(trained / "seed-0"), *words, "--seed", seed, "--out", str(out)]) == 0
        found.append(load(out / "results" / "evaluation-last-test.json"))
    assert found[0].index.tolist() == found[1].index.tolist()
    assert [result.provenance.seed for result in found] == [0, 5]
    capsys.readouterr()


def test_end_to_end_a_model_from_elsewhere(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import torch\n\n\ndef net():\n    layers = torch.nn.Flatten(), torch.nn.Linear(64, 10)\n"
    (tmp_path / "elsewhere.py").write_text(f"{code}    return torch.nn.Sequential(*layers)\n")
    words = ["elsewhere:net", "--data", "digits", *QUICK, "--eps", "8/255", "--mean", "0.5", "--std", "0.5"]
    assert main(["evaluate", *words, "--splits", "test", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["eps"] == 8 / 255
    assert result["provenance"]["model"] == "elsewhere:net"
    assert (tmp_path / "runs" / "elsewhere-net" / "results" / "evaluation-last-test.json").exists()
    results = tmp_path / "runs" / "elsewhere-net" / "results"
    own = (results / "evaluation-last-test.json").read_bytes()
    assert main(["evaluate", *words, "--splits", "test", "--eps", "0.1"]) == 0
    capsys.readouterr()
    assert (results / "evaluation-last-test-under-linf-0.1.json").exists()
    assert (results / "evaluation-last-test.json").read_bytes() == own
    assert "none" in refused(capsys, "evaluate", *words, "--surrogate", "elsewhere:none")
    assert main(["measure", "elsewhere:net", "histograms", "--data", "digits", "--n", "9", "--out", "here"]) == 0
    assert (tmp_path / "here" / "results" / "histograms-last.json").exists()


def test_end_to_end_bare_weights_may_be_given_their_network(trained, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": load_file(trained / "seed-0" / "checkpoints" / "last.safetensors")}, "w.pt")
    words = ["evaluate", "w.pt", "--data", "digits", *QUICK, "--splits", "test"]
    assert "LeNet" in refused(capsys, *words, "--architecture", "lenet", "--architecture.width", "3")
    assert list(tmp_path.iterdir()) == [tmp_path / "w.pt"]
    assert main([*words, "--architecture", "lenet", "--architecture.width", "2"]) == 0
    assert "w.pt" in capsys.readouterr().out


def test_end_to_end_all_leaves_out_what_does_not_apply_and_says_why(capsys, tmp_path, monkeypatch):
    some = {name: kind for name, kind in members("Measurement").items() if name in ("connectivity", "histograms")}
    monkeypatch.setattr("robustscape.cli.measure.members", lambda _: some)
    monkeypatch.chdir(tmp_path)
    code = "import torch\n\n\ndef net():\n    torch.manual_seed(0)\n"
    (tmp_path / "straight.py").write_text(
        f"{code}    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    words = ["straight:net", "--data", "digits", "--n", "9", "--out", "here"]
    assert main(["measure", words[0], "all", *words[1:]]) == 0
    out, err = capsys.readouterr()
    assert "connectivity of straight:net is left out: no neurons of Sequential were found" in err
    assert out.splitlines() == ["here/results/histograms-last.json"]
    assert [path.name for path in (tmp_path / "here" / "results").glob("*.json")] == ["histograms-last.json"]
    assert not list(tmp_path.rglob("*.partial"))
    for names in (["connectivity"], ["all", "connectivity"]):
        assert main(["measure", words[0], *names, *words[1:]]) == 2
        assert "no neurons of Sequential were found" in capsys.readouterr().err


def test_contract_measurements_have_options_of_their_own_name(capsys):
    with pytest.raises(SystemExit):
        main(["measure", "slices", "--help"])
    text = capsys.readouterr().out
    assert "--slices.scheme" in text
    assert "--flatness.xi" not in text
    assert "--measurements" not in text


def test_contract_progress_gives_back_what_the_work_returns():
    def work():
        yield 1, 2
        yield 2, 2
        return "value"

    assert display.follow(work(), name="work") == "value"


@pytest.mark.parametrize(("words", "seeds"), [(["0,1,2"], (0, 1, 2)), (["3"], (3,)), (["4", "5"], (4, 5))])
def test_contract_seeds_have_commas_or_spaces(words, seeds, tmp_path, monkeypatch):
    seen = []

    def none(jobs, **_):
        seen.extend((run.seed, folder.name) for run, folder in jobs)
        yield from ()

    monkeypatch.setattr(execute, "train_several", none)
    assert main(["train", "digits_at", "--seeds", *words, "--out", str(tmp_path)]) == 0
    assert seen == [(seed, f"seed-{seed}") for seed in seeds]


# -- what an import costs ------------------------------------------------------------------------------

_IMPORT = """
import sys, time
import torch
start = time.perf_counter()
import robustscape
seconds = time.perf_counter() - start
heavy = {"matplotlib", "scipy", "sklearn", "plotly", "lightning_fabric", "pooch", "PIL", "tyro"} & set(sys.modules)
print(seconds, *heavy)
"""


def test_contract_importing_robustscape_costs_little_beside_torch():
    done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    assert float(seconds) < 0.3  # seconds: what the issue allows
    assert heavy == []


def test_contract_a_model_that_gives_nan_under_attack_is_bad_input(capsys, tmp_path, monkeypatch):
    (tmp_path / "sick_nets.py").write_text(
        "import torch\n"
        "class Sick(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        changed = x[:, :, 0, 0] > 0.01  # the first pixel of every digit is black\n"
        "        return self.linear(x.flatten(1)) * torch.where(changed, torch.nan, 1.0)\n"
        "def net():\n"
        "    with torch.random.fork_rng():\n"
        "        torch.manual_seed(0)\n"
        "        return Sick()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "sick_nets:net", "--data", "digits", "--eps", "0.1", "--n", "20"]) == 2
    out, err = capsys.readouterr()
    doubt, refusal = err.splitlines()  # untrained, it is at chance too
    assert out == "" and "chance" in doubt
    assert refusal.startswith("robustscape: ") and "NaN" in refusal
    assert not list(tmp_path.rglob("*.json"))
