"""``dropreel schema``: the JSON Schemas of the contract."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from core.contract import SCHEMAS as CONTRACT
from core.contract import Record
from core.errors import DropreelError
from core.overview import ServerStatus
from daemons.cli.app import app

SCHEMAS: dict[str, type[Record]] = {**CONTRACT, "server_status": ServerStatus}


@app.command()
def schema(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(SCHEMAS)}. All of them without.")] = "",
) -> None:
    """Print the JSON Schema of every file that the halves exchange, or of one."""
    if name and name not in SCHEMAS:
        raise DropreelError(f"There is no schema '{name}'. There are: {', '.join(SCHEMAS)}.")
    schemas = {key: model.model_json_schema() for key, model in SCHEMAS.items()}
    typer.echo(json.dumps(schemas[name] if name else schemas, indent=2))
