"""How heavy the code is: ``python -m tests.mass`` prints tokens by folder, or with --files by file.

A token is one of Python's ``tokenize`` without comments, docstrings, indentation and line ends, so
that shorter names, remarks and denser lines change nothing.
"""

import ast
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
FOLDERS = ("net", "tool", "data", "log", "examples", "benchmarks", "tests")
APART = ("benchmarks", "tests")  # what is no production code
LAYOUT = (
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def tokens_of(source: str) -> list[tokenize.TokenInfo]:
    """Return the tokens of a module that count."""
    documented = (node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED))
    firsts = [node.body[0] for node in documented if ast.get_docstring(node, clean=False)]
    docstrings = {(first.lineno, first.col_offset) for first in firsts}
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    return [t for t in tokens if t.type not in LAYOUT and t.start not in docstrings]


def files() -> Iterator[tuple[str, Path]]:
    """Yield the folder, or root, and the path of every Python file of the project."""
    yield from (("root", file) for file in sorted(REPOSITORY.glob("*.py")))
    for folder in FOLDERS:
        yield from ((folder, file) for file in sorted((REPOSITORY / folder).rglob("*.py")))


def longest_function(by_file: dict[str, str]) -> tuple[int, str]:
    """Return lines and name of the longest function."""
    return max(
        (node.end_lineno - node.lineno + 1, f"{name}:{node.name}")
        for name, source in by_file.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, FUNCTIONS)
    )


def main() -> None:
    """Print the masses."""
    tokens, lines = defaultdict(int), defaultdict(int)
    sources = {}
    for folder, file in files():
        name = file.relative_to(REPOSITORY).as_posix()
        source = file.read_text(encoding="utf-8")
        found = tokens_of(source)
        places = [folder] + ["production"] * (folder not in APART)
        for place in places:
            tokens[place] += len(found)
            lines[place] += len({token.start[0] for token in found})
        if folder not in APART:
            sources[name] = source
        if "--files" in sys.argv:
            print(f"{len(found):7,}  {name}")
    for place, number in tokens.items():
        print(f"{number:7,} tokens {number / lines[place]:6.2f} a line  {place}")
    print("longest function of production: {} lines, {}".format(*longest_function(sources)))


if __name__ == "__main__":
    main()
