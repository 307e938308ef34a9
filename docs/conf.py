"""Settings of Sphinx: Markdown pages by MyST, the API reference from docstrings, the theme furo."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

import hf_xmc

project = "hf_xmc"
author = copyright = "the authors of hf_xmc"
version = release = hf_xmc.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links to headings work as on GitHub

autodoc_inherit_docstrings = False  # what transformers says of its own methods is in its documentation
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # show a constant's name, not its value
autodoc_default_options = {"members": True}
autodoc_class_signature = "mixed"
napoleon_google_docstring = True

smartquotes = False  # `--flag` in a help text stays what it is

html_theme = "furo"
html_title = f"hf_xmc {version}"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app: Any) -> None:
    """Sphinx calls this at the start."""
    app.connect("builder-inited", write_command_line)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon


def as_restructured_text(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings mark code as Markdown does, and link as transformers does, [`~transformers.Trainer`]."""
    text = re.sub(r"\[`~?([\w.]+)`\](\([^)]*\))?", r"`\1`", "\n".join(lines))
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", lambda code: "``" + " ".join(code[1].split()) + "``", text)
    text = re.sub(r"(?<!`)(\||\*\*(?=\w))", lambda mark: "\\" + "\\".join(mark[0]), text)
    lines[:] = re.sub(r"^Example:\n\n(?= +[^ >])", "Example::\n\n", text, flags=re.MULTILINE).split("\n")


def write_command_line(app: Any) -> None:
    """Write api/command-line.md: every command with its options, as the parsers know them."""
    from hf_xmc.cli.main import app as commands

    group: Any = typer.main.get_command(commands)
    context = group.make_context("hf-xmc", [], resilient_parsing=True)
    text = ["# Command line\n", "Flags are spelled with underscores, as in transformers; dashes are accepted too.\n"]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        text += [f"## hf-xmc {name}\n", f"{paragraph(command.help)}\n"]
        if example := paragraph(command.epilog).removeprefix("Example: "):
            text += [f"```bash\n{example}\n```\n"]
        rows = training_rows() if name == "train" else parameter_rows(command)
        if name == "plan":
            text += ["Takes the flags of `hf-xmc train`, and some additional ones: see `hf-xmc plan --help`.\n"]
        elif rows:
            text += ["| option | default | |", "|---|---|---|", *rows, ""]
    (Path(app.srcdir) / "api/command-line.md").write_text("\n".join(text), encoding="utf-8")


def parameter_rows(command: Any) -> list[str]:
    """A row of the table for each parameter of a typer command."""
    rows = []
    for parameter in command.params:
        names = (
            parameter.opts + parameter.secondary_opts if parameter.param_type_name == "option" else [parameter.name]
        )
        default = "" if parameter.default in (None, False, ()) or callable(parameter.default) else parameter.default
        rows.append(row(" ".join(f"`{name}`" for name in names), default, getattr(parameter, "help", "")))
    return rows


def training_rows() -> list[str]:
    """A row for each argument of the model and of XMCTrainingArguments that transformers does not have."""
    from dataclasses import MISSING, fields

    from transformers import TrainingArguments

    from hf_xmc.cli.script_arguments import ScriptArguments
    from hf_xmc.training.arguments import XMCTrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    rows = []
    for field in [*fields(ScriptArguments), *(f for f in fields(XMCTrainingArguments) if f.name not in known)]:
        default = "" if field.default in (MISSING, None) else field.default
        rows.append(row(f"`--{field.name}`", default, field.metadata.get("help", "")))
    return [*rows, row("...", "", "every argument of transformers' `TrainingArguments`")]


def row(name: str, default: Any, text: str | None) -> str:
    """A row of a Markdown table."""
    return f"| {name} | {f'`{default}`' if default != '' else ''} | {paragraph(text)} |"


def paragraph(text: str | None) -> str:
    """Text on one line, safe in a table."""
    return re.sub(r"\s+", " ", text or "").strip().replace("|", "\\|")
