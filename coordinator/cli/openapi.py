"""`commitd openapi`: the HTTP API as a document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.http.openapi import text

__all__ = ["openapi"]


def openapi(
    output: Annotated[Path | None, typer.Option(help="Write it to this file instead of standard output.")] = None,
) -> None:
    """Print the OpenAPI document of the HTTP API."""
    if output is None:
        typer.echo(text(), nl=False)
    else:
        output.write_text(text(), encoding="utf-8")
