"""What all commands share: their relay, their errors, and output for a terminal or, with --json, for a program."""

from __future__ import annotations

import functools
import io
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import click
from flask.cli import with_appcontext

import log
from inbox.database import DatabaseUnavailable
from operations.checks import explain
from operations.relay import current_relay
from outbound import ServiceError


def command(name: str, group: Any = click, *, has_json: bool = False) -> Callable[[Callable[..., None]], click.Command]:
    """Makes a command of a function, which gets the relay first. `has_json` adds the option --json as `as_json`. An
    error of a service or of the database becomes one line that says what to do."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> None:
            relay = current_relay()
            log.configure(relay.config.log_level, relay.secrets, sys.stderr)
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 lacks emoji
            try:
                function(relay, *args, **options)
            except (ServiceError, DatabaseUnavailable) as error:
                fail(". ".join(explain(error)))

        if has_json:
            run = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(run)
        made: click.Command = group.command(name)(with_appcontext(run))
        return made

    return decorate


def fail(message: str) -> NoReturn:
    """Ends the command with one line and exit code 1. With --json a program gets it too, unless it has got a value."""
    context = click.get_current_context()
    if context.params.get("as_json") and "printed" not in context.meta:
        print_json({"error": message})
    raise click.ClickException(message)


def print_json(value: Any) -> None:
    click.get_current_context().meta["printed"] = True
    click.echo(json.dumps(value, default=asdict, indent=2))


def print_fields(fields: Mapping[str, object]) -> None:
    """One line for each field that is not None."""
    width = max(map(len, fields)) + 2
    for name, value in fields.items():
        if value is not None:
            print_wrapped(f"{name:<{width}}", str(value))


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str | None]) -> None:
    """A table for a terminal of 80 columns. Each row's note, which may be long, stands below it."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for row, note in zip((names, *cells), (None, *notes), strict=True) if cells else ():
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        if note:
            print_wrapped(" " * (widths[0] + 2), note)


def print_wrapped(beginning: str, text: str, indent: int | None = None) -> None:
    """A paragraph as wide as the terminal, indented below its beginning. No word is cut: ids stay whole."""
    below = " " * (len(beginning) if indent is None else indent)
    lines = textwrap.TextWrapper(max(60, shutil.get_terminal_size().columns), beginning, below)
    lines.break_long_words = lines.break_on_hyphens = False
    click.echo(lines.fill(text))
