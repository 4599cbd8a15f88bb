"""Counts lines of product code: without blank lines, comments and docstrings."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

FOLDERS = ("khoros", "inbox", "destinations", "operations")
_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def product_code(checkout: Path) -> dict[str, int]:
    """The number of lines of each Python file at the top level and in the four folders, by the file's path."""
    files = [*checkout.glob("*.py"), *(file for folder in FOLDERS for file in (checkout / folder).rglob("*.py"))]
    return {str(file.relative_to(checkout)): code_lines(file.read_text()) for file in sorted(files)}


def code_lines(source: str) -> int:
    """The number of lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - _docstring_lines(ast.parse(source)))


def _docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            match node.body[0]:
                case ast.Expr(value=ast.Constant(value=str())) as docstring:
                    lines.update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines
