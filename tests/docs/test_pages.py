"""Every code block of the documentation is run as it stands there, on tiny data and with a tiny encoder.

Blocks that need a network, several processes or a long time are marked `no-run` after their language: their commands
are parsed by the real parsers, and their Python is compiled and its imports are resolved.
"""

from __future__ import annotations

import ast
import random
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from hf_xmc.cli.launch import LAUNCH
from hf_xmc.cli.main import app
from hf_xmc.cli.train import parse
from tests.conftest import COLOURS, THINGS, write_lines

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
STEPS = "2"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    run: bool
    code: str
    line: int


def blocks(path: Path) -> list[Block]:
    """The bash and Python blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"^```(bash|python)( no-run)?\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(m[1], m[2] is None, m[3], text[: m.start()].count("\n") + 2) for m in found]


def commands(code: str) -> list[list[str]]:
    """The commands of a bash block, without comments, as lists of arguments; variables in front are left out."""
    lines = code.replace("\\\n", " ").splitlines()
    split = [shlex.split(line, comments=True) for line in lines]
    cut = [[word for i, word in enumerate(line) if i or not re.match(r"[A-Z_]+=", word)] for line in split]
    return [words for words in cut if words]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    """A folder with the files that the pages speak of, after the commands of the quickstart."""
    folder = tmp_path_factory.mktemp("docs")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_page("quickstart.md", folder, tiny_encoder)
    shutil.copytree(folder / "outputs/run", folder / "outputs/other")
    return folder


def write_data(folder: Path) -> None:
    """Texts that name a colour and a thing, with a label for each of both; and the small files of the examples."""
    draw = random.Random(0)
    rows = []
    for i in range(660):
        colour, thing = draw.choice(COLOURS), draw.choice(THINGS)
        labels = [COLOURS.index(colour), len(COLOURS) + THINGS.index(thing)]
        rows.append({"uid": f"q{i}", "text": f"a {colour} {thing}" + " here" * (i % 3), "labels": labels})
    (folder / "my_data").mkdir()
    write_lines(folder / "my_data/trn.jsonl", rows[:600])
    write_lines(folder / "my_data/tst.jsonl", rows[600:])
    write_lines(folder / "my_data/lbl.jsonl", [{"uid": name, "text": f"the {name}"} for name in (*COLOURS, *THINGS)])
    (folder / "new_labels.txt").write_text("a boat\na bridge\n")
    (folder / "changed_labels.csv").write_text("uid,text\nred,the colour red\n")
    (folder / "texts.csv").write_text("id,text\n1,a red car\n2,a green house\n")
    (folder / "posts.tagged").write_text("".join(f"{row['text']} #{row['text'].split()[1]}\n" for row in rows))
    articles = [
        f"a{i},{row['text']},all about it,{';'.join(row['text'].split()[1:3])}\n" for i, row in enumerate(rows)
    ]
    (folder / "articles.csv").write_text("id,title,abstract,subjects\n" + "".join(articles))


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("quickstart.md", "extending.md")])
def test_blocks_of_a_page(
    page: str, started: Path, tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(block.run for block in blocks(DOCS / page)):
        run_page(page, tmp_path, tiny_encoder)
        return
    folder = tmp_path / "docs"
    shutil.copytree(started, folder)
    monkeypatch.chdir(folder)
    run_page(page, folder, tiny_encoder)


def test_extending(started: Path, tiny_encoder: str, tmp_path: Path, python: str) -> None:
    """In a process of its own, where the files of the page are part of the package."""
    folder = tmp_path / "docs"
    shutil.copytree(started, folder)
    command = [python, "-m", "tests.docs.extended_package", str(folder), tiny_encoder]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "extended"


def test_the_quickstart_leaves_a_trained_folder(started: Path) -> None:
    for name in ("model.safetensors", "labels.parquet", "index/index.faiss", "confidence.json", "run.json"):
        assert (started / "outputs/run" / name).is_file(), name
    assert (started / "tags.jsonl").is_file()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "scripts/recipes/README.md"])
def test_blocks_of_other_pages_can_be_run(page: str, tiny_encoder: str) -> None:
    """tests/test_readme.py runs the Python of the README."""
    for block in blocks(ROOT / page):
        check(block, f"{page}:{block.line}")


def run_page(page: str, folder: Path, encoder: str) -> None:
    """Write the files of a page (blocks with a path after their language), then run its blocks in order; Python blocks
    share their names."""
    names: dict[str, Any] = {}
    text = (DOCS / page).read_text(encoding="utf-8")
    for file in re.finditer(r"^```text (\S+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        path = folder / file[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file[2], encoding="utf-8")
    for block in blocks(DOCS / page):
        where = f"docs/{page}:{block.line}"
        if block.code.startswith("# hf_xmc/"):  # a file, put in place before
            continue
        check(block, where)
        if block.run and block.language == "bash":
            for words in commands(block.code):
                run_command([small(word, encoder) for word in words], where)
        elif block.run:
            code = small(block.code, encoder).replace("num_train_epochs=2", f"max_steps={STEPS}")
            exec(compile(code, where, "exec"), names)


def small(text: str, encoder: str) -> str:
    """The tiny encoder and the small data in place of the real ones."""
    text = text.replace("sentence-transformers/all-MiniLM-L6-v2", encoder)
    return re.sub(r'^sample$|(?<=")sample(?=")', "my_data", text)


def run_command(words: list[str], where: str) -> None:
    """Run `hf-xmc ...` in this process; other programs are not for a test."""
    if words[0] != "hf-xmc":
        return
    if "--num_train_epochs" in words:
        at = words.index("--num_train_epochs")
        words[at : at + 2] = ["--max_steps", STEPS]
    result = CliRunner().invoke(app, words[1:])
    error = repr(result.exception) if result.exception else ""
    assert result.exit_code == 0, f"{where}: {shlex.join(words)}\n{result.output[-2000:]}\n{error}"


def check(block: Block, where: str) -> None:
    """The commands of a block exist and take these flags; its Python compiles, and what it imports is there."""
    if block.language == "python":
        check_imports(ast.parse(block.code, where), where)
        return
    for words in commands(block.code):
        check_command(words, where)


def check_imports(tree: ast.AST, where: str) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{where}: no {alias.name} in {node.module}"


def check_command(words: list[str], where: str) -> None:
    program, *rest = words
    if program == "hf-xmc":
        check_hf_xmc(rest, where)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in (word for word in rest if "=" not in word):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{where}: no make {target}"
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for names in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
            assert set(names.split(",")) <= set(extras), f"{where}: {words}"
    elif program in ("python", "bash") or words[:2] == ["accelerate", "launch"]:
        scripts = [word for word in rest if word.endswith((".py", ".sh"))]
        assert scripts or "-m" in rest, f"{where}: {words}"
        for script in scripts:
            assert (ROOT / script).is_file(), f"{where}: no {script}"
        if scripts and scripts[0] in ("scripts/train.py", "scripts/predict.py"):
            command = Path(scripts[0]).stem
            check_hf_xmc([command, *rest[rest.index(scripts[0]) + 1 :]], where)
    else:
        # tests/serving/test_server.py sends what curl sends here to a server.
        assert program in ("git", "cd", "ruff", "pytest", "curl", "docker", "annif", "echo"), (
            f"{where}: what is {program}?"
        )


def check_hf_xmc(words: list[str], where: str) -> None:
    """The real parser takes the flags; `...` stands for more of them."""
    command, *rest = [word for word in words if word != "..."]
    if command == "--help":
        return
    group: Any = typer.main.get_command(app)
    parent = group.make_context("hf-xmc", [command], resilient_parsing=True)
    assert group.get_command(parent, command) is not None, f"{where}: there is no hf-xmc {command}"
    if command in ("train", "plan"):
        flags = [word.split("=")[0] for word in rest if word.startswith("--")]
        launch = {"--accelerate_config", *(f"--{name}" for name in LAUNCH)}
        known = set(training_flags()) | launch | ({"--memory"} if command == "plan" else set())
        assert set(flags) <= known, f"{where}: hf-xmc {command} has no {set(flags) - known}"
        return
    parser = group.get_command(parent, command)
    known = {option for parameter in parser.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in rest if word.startswith("--")} <= known, f"{where}: {shlex.join(words)}"


def training_flags() -> Iterator[str]:
    """The flags of `hf-xmc train`."""
    parser, _ = parse(["--dataset", "sample", "--model_name_or_path", "x"], "hf-xmc train", "")
    for action in parser._actions:
        yield from action.option_strings


def test_links_lead_somewhere() -> None:
    """Links between pages, and to headings in them, as GitHub makes anchors."""
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]:
        if path.name == "command-line.md":  # made when the documentation is built
            continue
        for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)):
            if link.startswith(("http", "mailto")):
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{path}: {link}"
            if anchor:
                assert anchor in anchors(target), f"{path}: {link}, of {sorted(anchors(target))}"


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_contents_list_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        if page != "index.md":
            assert f"]({page})" in index, page
            assert f"\n{Path(page).stem}\n" in index, f"{page} in the toctree"


def test_figures_of_the_picture_stand_in_the_experiments() -> None:
    import json

    figures = json.loads((DOCS / "images/results.json").read_text(encoding="utf-8"))
    text = (DOCS / "experiments.md").read_text(encoding="utf-8")
    for name, value in figures["demo"]["P@1"].items():
        assert re.search(rf"^\| \**{re.escape(name)}\** \| {value} ", text, flags=re.MULTILINE), name
    for name, (before, after) in figures["memory"]["P@1"].items():
        assert re.search(rf"^\| {name}[^|]*\| {before} → {after} ", text, flags=re.MULTILINE), name
    for name, (encoder, classifier) in figures["classifier"]["P@1"].items():
        rows = text[text.index("## Recipes") :]
        part = rows[rows.index(f"| {name} |") :]
        found = [
            re.search(rf"\| {stage} \| ([\d.]+) ", part) for stage in ("NGAME, encoder", "NGAME, with the classifier")
        ]
        assert [float(match[1]) for match in found if match] == [encoder, classifier], name


def test_the_tables_of_peers_are_those_of_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.syspath_prepend(ROOT / "scripts/benchmarks")
    found = json.loads((DOCS / "images/peers.json").read_text(encoding="utf-8"))
    text = (DOCS / "experiments.md").read_text(encoding="utf-8")
    tables = import_module("peer_tables").markdown(found)
    assert import_module("plot_results").with_tables(text, tables) == text, "run scripts/plot_results.py"
    assert (DOCS / "images/peers.svg").is_file()


def test_no_page_names_a_module_that_is_not_there() -> None:
    for path in DOCS.rglob("*.md"):
        for name in re.findall(r"`(?:hf_xmc/)?((?:\w+/)+\w+\.py)`", path.read_text(encoding="utf-8")):
            assert any((base / name).is_file() for base in (ROOT, ROOT / "hf_xmc")), f"{path.name}: {name}"
