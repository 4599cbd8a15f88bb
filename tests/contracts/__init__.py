"""The messages between the relay and the services around it, as JSON schemas in our own words.

They are written after the published descriptions of Zendesk, Khoros and Heroku, and hold only what the relay sends and
reads. Where a description leaves something open, the schema does too.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parent


def validate(value: object, service: str, message: str) -> None:
    """Raises jsonschema.ValidationError when `value` breaks the schema `message` in the service's file."""
    Draft202012Validator({**schemas(service), "$ref": f"#/$defs/{message}"}).validate(value)


@cache
def schemas(service: str) -> dict[str, Any]:
    """The service's file. Raises FileNotFoundError when there is none: a contract is never skipped."""
    contract: dict[str, Any] = json.loads((FOLDER / f"{service}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(contract)
    return contract
