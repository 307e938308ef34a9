"""Self-contained HTML pages: a template on the shared layout, with a content policy that allows nothing else."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent


def render(template: Path, script: str = "", **values: Any) -> str:
    """A page as a string. All values are escaped, except for `Markup`.

    The policy of the page forbids every request, every script but its own, and every style but the shared one: that is
    why templates must not use `style` attributes.

    Args:
        template: a file that extends `page.html.jinja` and fills its block `body`. It has `title` among its values.
        script: JavaScript that the page runs at its end, once it is built. It must work without it as well.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["headings"] = headings
    style = (HERE / "page.css").read_text(encoding="utf-8")
    its_policy = Markup(policy(style, script))  # nosec B704: of hashes
    shared = {"style": Markup(style), "script": Markup(script), "policy": its_policy}  # nosec B704: our own files
    return environment.get_template(template.name).render(**shared, **values)


def policy(style: str, script: str) -> str:
    """The content policy of a page that holds this style and this script, and loads nothing."""
    rules = ["default-src 'none'", "img-src data:", f"style-src {source(style)}"]
    rules += [f"script-src {source(script)}"] if script else []
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def source(text: str) -> str:
    """An inline style or script, as a content policy names it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def headings(body: str) -> list[tuple[str, Markup]]:
    """The id and title of each second heading of a page that has an id, for its contents.

    >>> headings('<h2 id="a">One</h2> <h2>Two</h2> <h3 id="b">Three</h3>')
    [('a', Markup('One'))]
    """
    return [(id_, Markup(title)) for id_, title in re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body)]  # nosec B704: was escaped
