"""What test_pages.py starts for docs/extending.md: its files become part of the package, then everything on it is run.

Arguments: the folder to work in, the encoder.
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/extending.md"


def put_files_in_place(overlay: Path) -> list[str]:
    """Write the files of the page, and let the package find them; returns their names."""
    files = re.findall(r"^```python\n# (hf_xmc/\S+\.py)\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    for name, code in files:
        path = overlay / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        import_module(".".join(Path(name).parent.parts)).__path__.append(str(path.parent))
    return [name for name, _ in files]


def main() -> None:
    folder, encoder = Path(sys.argv[1]), sys.argv[2]
    names = put_files_in_place(folder / "overlay")
    assert len(names) == 7, "one for each task"
    for name in names:
        import_module(name.removesuffix(".py").replace("/", "."))

    from tests.docs.test_pages import run_command, run_page

    os.chdir(folder)
    add_the_command()
    run_page("extending.md", folder, encoder)
    run_command(["hf-xmc", "count", "outputs/run"], "extending.md")
    add_the_part(folder / "outputs/run")
    print("extended")


def add_the_command() -> None:
    """What discovery in cli/main.py does."""
    from hf_xmc.cli import count  # type: ignore[attr-defined]
    from hf_xmc.cli.main import app

    app.command(epilog=count.EXAMPLE)(count.count)


def add_the_part(folder: Path) -> None:
    """With the entry of the page in the table, the part is saved, pushed, kept and removed as the table says."""
    from hf_xmc.hub import folder as owner
    from hf_xmc.retrieval.notes import Notes  # type: ignore[import-not-found]

    (entry,) = re.findall(r"^(Part\(\n.*?^\))", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (imports,) = re.findall(r"^from hf_xmc.retrieval.notes import .*$", PAGE.read_text(), flags=re.MULTILINE)
    names: dict[str, object] = {"Part": owner.Part}
    exec(f"{imports}\npart = {entry}", names)
    known = owner.parts()
    owner.parts = lambda: (*known, names["part"])  # type: ignore[assignment, return-value]

    owner.save_parts(folder, {"notes": Notes({"red": "a warm colour"})})
    assert "notes.json" in owner.files_to_push(folder)
    assert Notes.from_pretrained(folder).notes == {"red": "a warm colour"}
    owner.save_parts(folder, {})
    assert (folder / "notes.json").is_file()


if __name__ == "__main__":
    main()
