"""The page and the card from their templates, ``page.html`` and ``card.md``."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tool.errors import printable

HERE = FileSystemLoader(Path(__file__).parent)
BLOCKS = {"trim_blocks": True, "lstrip_blocks": True, "undefined": StrictUndefined}
MARKS = re.compile(r"([\\`*_\[\]|#~$!])")  # what Markdown gives a meaning within a line


def markdown_text(value: Any) -> str:
    """Return a value so that Markdown shows its letters; what is marked as safe stays."""
    if hasattr(value, "__html__"):
        return value
    text = MARKS.sub(r"\\\1", printable(str(value)))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clock(seconds: int) -> str:
    """Return a time as hours, minutes and seconds."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def render(template: str, **values: Any) -> bytes:
    """Return a template filled with values, which are escaped as its format wants it."""
    if template.endswith(".md"):
        # The format is no HTML, and `finalize` sees every value.
        environment = Environment(loader=HERE, finalize=markdown_text, **BLOCKS)
    else:
        environment = Environment(loader=HERE, autoescape=True, **BLOCKS)
    return environment.get_template(template).render(values).encode(errors="backslashreplace")
