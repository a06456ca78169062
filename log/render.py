"""Texts from templates: the page as HTML, the card as Markdown, what is printed as it is."""

import html
import re
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from log.curves import FOLDER
from tool.errors import printable

MARKS = re.compile(r"([\\`*_\[\]|#~$!])")  # what Markdown gives a meaning within a line


def markdown_text(value: Any) -> str:
    """Return a value so that Markdown shows its letters; what is marked as safe stays."""
    if hasattr(value, "__html__"):
        return value
    return html.escape(MARKS.sub(r"\\\1", printable(str(value))), quote=False)


def render(template: str, **values: Any) -> str:
    """Return a template filled with values, which are escaped as its format wants it."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=template.endswith(".html"),
        finalize=markdown_text if template.endswith(".md") else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(values).strip()
    return text.encode(errors="backslashreplace").decode()
