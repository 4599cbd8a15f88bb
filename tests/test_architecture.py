"""The rooms of the house: who may import whom, and what no module of the product may do."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("khoros", "inbox", "destinations", "operations")
CLIENTS = {"khoros_client", "zendesk_client", "zendesk_answers"}
OURS = {*FOLDERS, *CLIENTS, "app", "config", "dates", "events", "outbound", "background", "server", "log", "aws_lambda"}
ENTRANCES = {"app", "aws_lambda", "server"}  # of the process: nothing else imports them
# A room, or a module of it, and what it must not import. log.py is allowed everywhere.
MUST_NOT_IMPORT = {
    "config": OURS - {"log"},
    "dates": OURS,
    "events": OURS - {"log", "dates"},
    "outbound": OURS - {"log"},
    "log": OURS,
    "background": OURS - {"log", "inbox"},
    "khoros_client": {*FOLDERS, *ENTRANCES, "zendesk_client"},
    "zendesk_client": {*FOLDERS, *ENTRANCES, "khoros_client"},
    "zendesk_answers": OURS - {"log", "outbound"},
    "khoros": {"destinations", "operations", *ENTRANCES, "zendesk_client", "zendesk_answers"},
    "inbox": {"khoros", "destinations", "operations", *ENTRANCES, "outbound", "flask", "requests", *CLIENTS},
    "destinations": {"khoros", "operations", *ENTRANCES, "khoros_client"},
    "destinations.zendesk_words": {"inbox", *CLIENTS},
    "destinations.zendesk_comment": {"inbox", *CLIENTS},
    "operations": ENTRANCES,
}
OF_ZENDESK = {"zendesk", "zendesk_words", "zendesk_comment", "zendesk_requester", "ticket_states"}  # in destinations/
LINES, FILES = 300, 13


def product() -> list[Path]:
    return sorted([*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))])


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def module(file: Path) -> str:
    """The dotted name: inbox.database, app, inbox for its __init__."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def nodes(file: Path) -> list[tuple[ast.AST, str]]:
    """Everything in a file, with its place."""
    place = file.relative_to(ROOT)
    return [(node, f"{place}:{getattr(node, 'lineno', 0)}") for node in ast.walk(tree(file))]


@cache
def imports(file: Path, *, at_run_time: bool = False) -> list[tuple[str, str]]:
    """Every dotted name that a file imports, wherever in it, and the place. `from a import b` may mean a.b."""
    for_types = {
        id(inner)
        for node, _ in nodes(file)
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: list[tuple[str, str]] = []
    for node, place in nodes(file):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, place) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{place}: a relative import"
            found += [(f"{node.module}.{alias.name}", place) for alias in node.names]
    return found


def is_in(name: str, room: str) -> bool:
    return f"{name}.".startswith(f"{room}.")


def test_every_module_keeps_to_what_its_room_may_import() -> None:
    wrong = [
        f"{place} imports {name}"
        for file in product()
        for room, forbidden in MUST_NOT_IMPORT.items()
        if is_in(module(file), room)
        for name, place in imports(file)
        if any(is_in(name, other) and not is_in(name, room) for other in forbidden)
    ]
    assert wrong == []


def test_a_destination_knows_the_protocol_and_its_own_words_and_no_other_destination() -> None:
    shared = {"__init__", "destination", "route", "routes", "delivery", "attempt"}
    for file in (ROOT / "destinations").glob("*.py"):
        own = {"destination", "text", *(OF_ZENDESK if file.stem in OF_ZENDESK else {f"{file.stem}_words"})}
        known = {name.split(".")[1] for name, _ in imports(file) if is_in(name, "destinations")}
        assert file.stem in shared or known <= own, file
        assert not any(is_in(name, "zendesk_client") for name, _ in imports(file)) or file.stem in OF_ZENDESK, file
    of_delivery = {name for name, _ in imports(ROOT / "destinations" / "delivery.py") if "destinations" in name}
    assert all(name.startswith(("destinations.destination.", "destinations.attempt.")) for name in of_delivery)


def test_the_product_imports_nothing_that_is_around_it() -> None:
    around = re.compile(r"(sandbox|tests|conftest|proofs|benchmarks)\b")
    assert [place for file in product() for name, place in imports(file) if around.match(name)] == []


def test_only_app_imports_operations() -> None:
    others = [file for file in product() if module(file) != "app" and not is_in(module(file), "operations")]
    assert [place for file in others for name, place in imports(file) if is_in(name, "operations")] == []


def test_no_circle_of_imports() -> None:
    """Neither of modules nor of rooms. What only a type checker imports does not count."""
    files = {module(file): file for file in product()}
    uses: dict[str, set[str]] = {name: set() for name in files}
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, file in files.items():
        for other, _ in imports(file, at_run_time=True):
            if known := [one for one in files if is_in(other, one)]:
                uses[name].add(max(known, key=len))
                rooms[name.split(".")[0]].add(other.split(".")[0])
    for graph in (uses, rooms):
        order = TopologicalSorter({name: others - {name} for name, others in graph.items()})
        list(order.static_order())  # raises CycleError


def test_the_house_stays_small() -> None:
    assert len(list(ROOT.glob("*.py"))) <= FILES
    long = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in product()}
    assert {file: lines for file, lines in long.items() if lines > LINES} == {}


def test_no_name_means_two_things() -> None:
    places = defaultdict(list)
    for file in product():
        for node in tree(file).body:
            for name in defined(node):
                if name != "T" and not re.fullmatch("__.+__", name):
                    places[name].append(module(file))
    assert {name: found for name, found in places.items() if len(set(found)) > 1} == {}


def defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def test_no_private_name_of_a_library_is_used() -> None:
    """`self._x` is a name that a class of the product defines, `other._x` one that a class of the same file does."""
    of_product = {name for file in product() for name in own_names(file)}
    wrong = []
    for file in product():
        of_file = set(own_names(file))
        for node, place in nodes(file):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                known = of_product if first(node.value) in ("self", "cls") else of_file
                if node.attr not in known or ast.unparse(node.value) == "super()":
                    wrong.append(f"{place} uses {ast.unparse(node)}")
        for name, place in imports(file):
            if any(is_private(part) for part in name.split(".")) and not is_in(name, "_typeshed"):
                wrong.append(f"{place} imports {name}")
    assert wrong == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(file: Path) -> Iterator[str]:
    """The names that the classes of a file give to attributes and methods."""
    for node, _ in nodes(file):
        if not isinstance(node, ast.ClassDef):
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
                yield part.name
            elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and first(part) == "self":
                yield part.attr
            elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                yield part.target.id


def test_nothing_of_an_imported_module_is_changed() -> None:
    wrong = []
    for file in product():
        imported = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree(file))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        for node, place in nodes(file):
            if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                if first(node) in imported:
                    wrong.append(f"{place} changes {ast.unparse(node)}")
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("setattr", "delattr")
            ):
                wrong.append(f"{place} calls {node.func.id}")
            if isinstance(node, ast.Attribute) and node.attr == "modules" and first(node) == "sys":
                wrong.append(f"{place} uses sys.modules")
        wrong += [f"{place} imports {name}" for name, place in imports(file) if name == "sys.modules"]
    assert wrong == []


def first(node: ast.AST) -> str:
    """The name that an expression like a.b[0].c begins with."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_only_zendesks_own_modules_know_what_a_ticket_is() -> None:
    wrong = []
    for file in product():
        if file.stem in {*OF_ZENDESK, "zendesk_client", "zendesk_answers", "tickets"}:
            continue
        wired = [
            part
            for part in tree(file).body
            if module(file) == "app" and getattr(part, "name", "").startswith("_zendesk")
        ]
        allowed = {id(node) for part in wired for node in ast.walk(part)}
        parts = {"ticket_states"} | (
            {"TicketStates", "Tickets"} if module(file) in ("app", "operations.relay") else set()
        )
        for node, place in nodes(file):
            if id(node) not in allowed:
                names = set(identifiers(node)) - parts
                wrong += [f"{place} names {name}" for name in names if "ticket" in name.lower()]
    assert wrong == []


def identifiers(node: ast.AST) -> list[str]:
    """The names that code gives to things."""
    names = [getattr(node, field, None) for field in ("name", "id", "attr", "arg", "asname")]
    return [name for name in names if isinstance(name, str)]


def test_the_image_gets_every_room() -> None:
    """A room that .dockerignore leaves out is missing only in the container."""
    let_in = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert {f"!{room}" for room in FOLDERS} <= let_in and "!*.py" in let_in
