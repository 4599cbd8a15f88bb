"""Every mutation of the long proofs still finds its place in the code, and one without a place is an error."""

from __future__ import annotations

import re

import pytest

from proofs.mutation import Mutation, find
from proofs.mutations import MUTATIONS, PROOFS, ROOT

SOURCE = '''
LIMIT = 5


class Box:
    """Holds things."""

    size: int = 1

    def put(self, thing: str) -> str:
        """Puts it in."""
        if thing:
            return thing
        return ""


def put(thing: str) -> str:
    return thing
'''


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_the_code_and_leaves_it_valid(mutation: Mutation) -> None:
    file, _, name = mutation.place.partition(":")
    source = (ROOT / file).read_text(encoding="utf-8")
    changed = mutation.changed(source, name)
    assert changed != source
    compile(changed, file, "exec")
    assert mutation.proof in PROOFS


def test_the_tests_of_every_proof_are_there() -> None:
    for proof in PROOFS.values():
        path, _, name = next(part for part in proof.command if ".py" in part).partition("::")
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name}" in source
        if "-k" in proof.command:
            for word in proof.command[-1].split(" or "):
                assert re.search(rf"def test_\w*{word}", source), f"no test of {path} is named {word}"


def test_a_body_or_a_part_of_one_definition_is_replaced() -> None:
    without = Mutation("x", "box.py:Box.put", "", body='return "nothing"').changed(SOURCE, "Box.put")
    assert 'def put(self, thing: str) -> str:\n        return "nothing"\n\n\ndef put(thing' in without
    other = Mutation("x", "box.py:put", "", change=("return thing", "return thing * 2")).changed(SOURCE, "put")
    assert other.endswith("return thing * 2\n") and other.count("* 2") == 1
    assert "LIMIT = 6\n" in Mutation("x", "box.py:LIMIT", "", change=("5", "6")).changed(SOURCE, "LIMIT")
    assert find(SOURCE, "Box.size").lineno == 8


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Box.take", ("thing", "x")),  # no such definition
        ("Box.put.inner", ("thing", "x")),
        ("put", ("box", "x")),  # no such part
        ("Box.put", ("thing", "x")),  # not once
    ],
)
def test_a_mutation_without_its_place_is_an_error(name: str, change: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="not on"):
        Mutation("x", f"box.py:{name}", "", change=change).changed(SOURCE, name)


def test_two_definitions_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="2 definitions of f"):
        find("def f(): ...\n\n\ndef f(): ...\n", "f")
