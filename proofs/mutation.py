"""What a mutation is: a definition of the product without its guard, and the proof that has to notice."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent, indent

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass(frozen=True)
class Proof:
    """A command, and the line of its output with the broken promise. A proof that fails for another reason proves
    nothing."""

    command: tuple[str, ...]
    reason: str


def tests(path: str, named: str, *, also: str = "AssertionError") -> Proof:
    """Some tests of a file. `also` is the error of a broken promise, beside a failed assertion."""
    command = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", path, "-k", named)
    return Proof(command, rf"^FAILED \S+?::(.+?) - (?:assert|AssertionError|Failed|\S*{also})")


@dataclass(frozen=True)
class Mutation:
    """A change to one definition that `proof` has to notice.

    `place` names the definition: the file and the function, method or constant in it. `change` replaces a part of its
    source, which a regular expression finds, `body` its whole body.
    """

    name: str
    place: str
    proof: str
    change: tuple[str, str] | None = None
    body: str | None = None

    def apply(self, folder: Path) -> None:
        """Changes the copy. Raises ValueError when the definition or its part is not there exactly once."""
        file, _, name = self.place.partition(":")
        path = folder / file
        path.write_text(self.changed(path.read_text(encoding="utf-8"), name), encoding="utf-8")

    def changed(self, source: str, name: str) -> str:
        """The source of a module with the mutation in its definition `name`."""
        definition, lines = find(source, name), source.splitlines(keepends=True)
        first = definition.lineno - 1
        if self.body is not None:
            if not isinstance(definition, ast.FunctionDef):
                raise ValueError(f"{self.place} is not a function")
            first = definition.body[0].lineno - 1
            text = indent(dedent(self.body).strip("\n") + "\n", " " * definition.body[0].col_offset)
        else:
            part, new = self.change or ("", "")
            text, count = re.subn(part, lambda _: new, "".join(lines[first : definition.end_lineno]))
            if count != 1:
                raise ValueError(f"{count} times in {self.place}, not once: {part!r}")
        return "".join([*lines[:first], text, *lines[definition.end_lineno :]])


def find(source: str, name: str) -> Definition:
    """The function, method, class or constant with this name, like `Inbox.claim`. Raises ValueError unless there is
    exactly one."""
    statements = ast.parse(source).body
    for part in name.split("."):
        found = [s for s in statements if isinstance(s, Definition) and part in names_of(s)]
        if len(found) != 1:
            raise ValueError(f"{len(found)} definitions of {part} for {name}, not one")
        statements = found[0].body if isinstance(found[0], ast.ClassDef | ast.FunctionDef) else []
    return found[0]


def names_of(statement: Definition) -> list[str]:
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [target.id for target in targets if isinstance(target, ast.Name)]
    return [statement.name]
