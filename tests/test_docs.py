"""Every public name is documented, and what the documents say works."""

import ast
import inspect
import re
import runpy
import shlex
import shutil
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

import pytest

from robustscape.cli import main
from robustscape.config import ROOMS, members

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "robustscape"
MODULES = sorted(SOURCE.rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMPONENTS = [kind for protocol in ROOMS for kind in members(protocol).values()]


def _path(file):
    return str(file.relative_to(ROOT))


# -- names -------------------------------------------------------------------------------------------------


def _undocumented(node, name):
    """Names below a syntax tree's node that anyone may use and nobody explains."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            inner = f"{name}.{child.name}"
            if not ast.get_docstring(child):
                yield inner
            if isinstance(child, ast.ClassDef):
                yield from _undocumented(child, inner)


@pytest.mark.parametrize("file", MODULES, ids=_path)
def test_contract_every_public_name_has_a_docstring(file):
    tree = ast.parse(file.read_text())
    assert not tree.body or ast.get_docstring(tree), f"{file} does not say what it is"
    assert list(_undocumented(tree, file.stem)) == []


@pytest.mark.parametrize("file", MODULES, ids=_path)
def test_contract_every_public_dataclass_explains_its_fields(file):
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    module = import_module(".".join(part for part in parts if part != "__init__"))
    for name, kind in vars(module).items():
        if not (isinstance(kind, type) and is_dataclass(kind) and kind.__module__ == module.__name__):
            continue
        if name.startswith("_"):
            continue
        text = inspect.getdoc(kind) or ""
        explained = set(re.findall(r"^ {4}(\w+):", text.partition("Attributes:")[2], flags=re.MULTILINE))
        missing = {field.name for field in fields(kind)} - explained
        if kind in COMPONENTS or "Attributes:" in text:
            assert not missing, f"{name} does not explain {sorted(missing)}"
        else:  # a small Result may say it in one sentence
            assert all(re.search(rf"\b{field}\b", text) for field in missing) or len(text.split()) > 6, name


# -- documents ---------------------------------------------------------------------------------------------


def _blocks(language):
    """Each fenced block of a language, with the page it is on and the line it begins in."""
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 1
            yield pytest.param(found[1], id=f"{_path(page)}:{line}")


def _commands():
    """Each `robustscape ...` command of the documents, once."""
    seen = set()
    for block in _blocks("(?:sh|bash|console)"):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            words = line.removeprefix("$ ").partition(" #")[0].strip()
            if words.startswith("robustscape ") and words not in seen:
                seen.add(words)
                yield pytest.param(words, id=words)


@pytest.mark.parametrize("page", PAGES, ids=_path)
def test_contract_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, heading = target.partition("#")
        where = (page.parent / file).resolve() if file else page
        assert where.exists(), f"{page.name} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", where.read_text(), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=_path)
def test_contract_every_name_of_the_package_is_there(page):
    """A module, or an attribute of a module or class; a changelog has names of its time."""
    for name in sorted(set(re.findall(r"\brobustscape(?:\.[A-Za-z_]\w*)+", page.read_text()))):
        assert resolve_name(name) is not None, f"{page.name} names {name}"


def _methods():
    """The pages of the methods of training: those that the README lists under that word."""
    listed = (ROOT / "README.md").read_text().partition("* The methods: ")[2].partition("\n* ")[0]
    return [ROOT / path for path in re.findall(r"\]\((docs/methods/\w+\.md)\)", listed)]


@pytest.mark.parametrize("page", _methods(), ids=_path)
def test_contract_a_methods_page_says_what_differs_what_is_logged_how_to_run_it_and_what_comes_out(page):
    text = page.read_text()
    assert set(re.findall(r"^## (.*)$", text, flags=re.MULTILINE)) >= {"Differences", "Logged", "Run it"}
    assert "`robustscape." in text  # where in the code
    words = " ".join(text.split()).lower()
    recipe = re.search(r"^robustscape train (wu|yan|stutz|liu|yamada)_", text, flags=re.MULTILINE)
    if "no row of a paper reproduced here trains with it" in words:
        assert not recipe and "no published number" in words
        return
    assert recipe
    assert "published" in words and re.search(r"\bours?\b.*(?:readme|studies)|we have no numbers? at this", words)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory):
    """A directory to try documents in, with the runs and files that they speak of, small ones."""
    folder = tmp_path_factory.mktemp("documents")
    words = "train digits_at --training.epochs 1 --training.batch-size 300 --training.track 20 --data.validation 30"
    assert main([*words.split(), "--objective.attack.steps", "1", "--out", str(folder / "runs" / "digits_at")]) == 0
    for name in ("awp", "path", "teacher", "cifar10_jpeg_teacher_small"):
        shutil.copytree(folder / "runs" / "digits_at", folder / "runs" / name)
    words = "--checkpoint last --splits test --n 20 --steps 1 --restarts 1 --loss-restarts 0 --sanity 0 --images 0"
    assert main(["evaluate", str(folder / "runs" / "digits_at"), *words.split(), "--keep-adversarial"]) == 0
    (folder / "runs" / "digits_at" / "results" / "evaluation-last-test.json").unlink()
    (folder / "photos").mkdir()
    (folder / "weights.pt").touch()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("code", list(_blocks("python")))
def test_end_to_end_python_in_the_documents_runs(code, elsewhere, monkeypatch, capsys):
    monkeypatch.chdir(elsewhere)
    page = elsewhere / "page.py"
    page.write_text(code)
    runpy.run_path(str(page), run_name="__main__")
    assert capsys.readouterr().out  # each block shows what it found


@pytest.mark.slow
@pytest.mark.parametrize("command", list(_commands()))
def test_end_to_end_commands_in_the_documents_are_understood(command, elsewhere, monkeypatch, capsys):
    """Every option is read and every component made; training and methods are only said, no measure, a study small."""
    monkeypatch.chdir(elsewhere)
    asked = []
    monkeypatch.setattr("robustscape.cli.evaluate.evaluate", lambda *job: asked.append(job) or [])
    monkeypatch.setattr("robustscape.cli.measure.measure", lambda *job: asked.append(job))
    monkeypatch.setattr("robustscape.cli.measure.joined", nullcontext)
    monkeypatch.setattr("robustscape.cli.train.check_files", lambda run: None)  # not all that are named are here
    monkeypatch.setattr("robustscape.cli.report.main", asked.append)
    monkeypatch.setattr("robustscape.cli.figure.main", asked.append)
    verb, *words = shlex.split(command)[1:]
    more = {"train": ["--dry-run"], "demo": ["--help"], "study": ["--scale", "small"]}.get(verb, [])
    more += ["--scale", "tiny", "--dry-run"] * (verb == "bench" and words[0] == "methods")
    try:
        code = main([verb, *words, *more])
    except SystemExit as end:  # how tyro ends after help and after what it cannot read
        code = end.code or 0
    assert code == 0, capsys.readouterr().err
    assert asked or verb not in ("evaluate", "measure", "report", "figure")
