import json
from dataclasses import replace

import pytest

from robustscape.config import from_plain, to_plain
from robustscape.recipes.digits import digits_at
from robustscape.results import read_json, read_run, save, write_json
from robustscape.runs import checkpoints, grouped, labels, logs, read_folders, read_runs
from robustscape.runtime import Runtime
from robustscape.types import BadInput


def change(folder, *keys, to):
    """Change one setting of a run."""
    head = read_json(folder / "run.json")
    place = head["run"]
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    write_json(folder / "run.json", head)


def bare(fake, folder, **words):
    return fake.run(folder, whole=False, **words)


def test_contract_runs_equal_but_for_the_seed_are_one_group(tmp_path, fake):
    paths = [bare(fake, tmp_path / str(s), name="at", seed=s) for s in range(2)]
    paths.insert(1, bare(fake, tmp_path / "n", name="natural"))
    found = read_runs(paths)
    assert [(f.label, f.group, f.seed) for f in found] == [("at", 0, 0), ("natural", 1, 0), ("at", 0, 1)]
    assert labels(found) == ("at", "natural")
    assert [e.robust_error.value for e in grouped(found, "evaluation-last-test")["at"]] == [0.1, 0.1]
    assert found[0].classes == fake.CLASSES


def test_contract_where_a_run_was_made_changes_no_group_and_a_run_of_schema_1_is_read(tmp_path, fake):
    paths = [bare(fake, tmp_path / str(s), name="at", seed=s) for s in range(3)]
    change(paths[1], "runtime", to=to_plain(Runtime(device="cpu", threads=1)))
    change(paths[2], "runtime", to={"type": "runtime:Runtime", "device": "cpu", "compile": False, "threads": 0})
    write_json(paths[2] / "run.json", read_json(paths[2] / "run.json") | {"schema": 1})
    assert [f.group for f in read_runs(paths)] == [0, 0, 0]
    assert from_plain(read_run(paths[2])["run"]["runtime"]) == Runtime(device="cpu", compile="no")


def test_contract_runs_of_before_and_after_a_new_field_are_one_group(tmp_path, fake):
    for seed in (0, 1):
        folder = fake.run(tmp_path / f"at-{seed}", name="at", seed=seed)
        head = json.loads((folder / "run.json").read_text())
        head["run"] = to_plain(replace(digits_at(), seed=seed))
        if seed == 0:
            del head["run"]["objective"]["attack"]["loss"]
            del head["run"]["model"]["activation"]
        (folder / "run.json").write_text(json.dumps(head))
    assert {folder.group for folder in read_runs([tmp_path])} == {0}


def test_contract_groups_of_one_name_are_told_apart_by_what_differs(tmp_path, fake):
    paths = [bare(fake, tmp_path / f"{k}", name="at") for k in range(3)]
    change(paths[1], "objective", "eps", to=0.1)
    change(paths[2], "weights", to=fake.AWP)
    assert [f.label for f in read_runs(paths)] == ["at (eps 0.3, weights none)", "at (eps 0.1, weights none)",
                                                  "at (eps 0.3, weights AWP)"]  # fmt: skip


def test_contract_fields_of_one_name_are_written_with_their_path(tmp_path, fake):
    paths = [bare(fake, tmp_path / f"{k}", name="at") for k in range(2)]
    change(paths[1], "objective", "eps", to=0.1)
    for path, eps in zip(paths, (0.2, 0.4), strict=True):
        change(path, "training", "eps", to=eps)
    assert read_runs(paths)[1].label == "at (objective.eps 0.1, training.eps 0.4)"


def test_contract_a_directory_stands_for_the_runs_below_it(tmp_path, fake):
    for name in ("b", "a"):
        bare(fake, tmp_path / "all" / name, name=name)
    assert [f.name for f in read_runs([tmp_path / "all"])] == ["a", "b"]


def test_contract_a_studys_folder_is_read_in_its_order_alone_and_beside_runs(tmp_path, fake):
    study = fake.study(tmp_path / "all" / "study")
    (found,) = read_folders([study]).studies
    assert (found.path, found.name, found.scale) == (study, "made_up", "small")
    assert [part.part for part in found.parts] == ["table", "figure", "checks"]
    assert found.parts[1].shown.panels[0] == fake.panels()[0]
    run = bare(fake, tmp_path / "all" / "run", name="at")
    both = read_folders([tmp_path / "all"])
    assert ([f.path for f in both.runs], [f.path for f in both.studies]) == ([run], [study])
    assert [f.path for f in read_runs([tmp_path / "all"])] == [run]


def test_contract_what_holds_no_part_of_a_study_is_refused(tmp_path, fake):
    study = fake.study(tmp_path / "study")
    with pytest.raises(BadInput, match="holds a study alone"):
        read_runs([study])
    with pytest.raises(BadInput, match="given twice"):
        read_folders([study, study])
    with pytest.raises(BadInput, match="nor a study's folder"):
        read_folders([study / "cells"])
    (study / "table.json").write_text((study / "table.json").read_text()[:300])
    with pytest.raises(BadInput, match="cut short"):
        read_folders([study])


def test_contract_a_model_from_elsewhere_needs_no_run(tmp_path, fake):
    save(fake.evaluation(0.1, 0.5), tmp_path / "theirs" / "results" / "evaluation-last-test.json")
    (found,) = read_runs([tmp_path / "theirs"])
    assert (found.label, found.settings, found.log) == ("theirs", {}, None)


def test_contract_checkpoints_are_in_order_and_missing_results_leave_their_place(tmp_path, fake):
    found = read_runs([bare(fake, tmp_path / "n", name="natural"), fake.run(tmp_path / "at", name="at")])
    assert checkpoints(found, "evaluation") == ("last", "best")
    assert checkpoints(found, "spectrum") == ()
    pairs = grouped(found, "flatness-last", "evaluation-last-test")
    assert (list(pairs), len(pairs["natural"]), len(pairs["at"])) == (["natural", "at"], 0, 1)
    assert [len(group) for group in logs(found).values()] == [0, 1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "it needs run, name"),
        ("{", "not JSON"),
        ('{"schema": 9, "run": {}, "name": "x"}', "newer robustscape"),
    ],
)
def test_contract_a_damaged_run_is_refused(tmp_path, content, says):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(BadInput, match=says):
        read_runs([tmp_path])


def test_contract_what_cannot_be_meant_is_refused(tmp_path, fake):
    run = bare(fake, tmp_path / "at", name="at")
    with pytest.raises(BadInput, match="given twice"):
        read_runs([run, tmp_path / "at" / ".." / "at"])
    with pytest.raises(BadInput, match="no directory"):
        read_runs([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="not a run directory"):
        read_runs([tmp_path / "empty"])
    with pytest.raises(BadInput, match="no run directory was given"):
        read_runs([])
    plain = json.loads((run / "results" / "evaluation-last-test.json").read_text())
    write_json(run / "results" / "slices-last.json", plain)
    with pytest.raises(BadInput, match=r"slices-last\.json holds Evaluation, which is not what its name says"):
        read_runs([run])
