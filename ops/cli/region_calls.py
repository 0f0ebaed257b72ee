"""Asking a node's HTTP port about regions (cluster/frontend/region_pages.py), and showing what it says, for the commands
`outlast region`, `failover` and `ledger`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED, EXIT_USAGE, complain

LOOK_TIMEOUT_S = 15.0
DEFAULT_ADDRESS = "127.0.0.1:7243"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the environment does not know these nodes
USAGE = ("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS")


class Output(StrEnum):
    table = "table"
    json = "json"


Address = Annotated[str, typer.Option(help="HTTP port of any node of a region, as HOST:PORT.")]
Form = Annotated[Output, typer.Option(help="For people, or for programs.")]


class CannotAsk(Exception):
    """What the other side said, or that it said nothing. code: an exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def look(address: str, call: str, **parameters: str) -> Any:
    """GET /regions/<call>. Raises CannotAsk."""
    query = urlencode({name: value for name, value in parameters.items() if value})
    return _asked(urllib.request.Request(f"http://{address}/regions/{call}?{query}"), address, LOOK_TIMEOUT_S)


def act(address: str, call: str, parameters: Mapping[str, Any], timeout_s: float) -> Any:
    """POST /regions/<call>. Raises CannotAsk."""
    body = json.dumps(dict(parameters)).encode()
    request = urllib.request.Request(
        f"http://{address}/regions/{call}", data=body, headers={"Content-Type": "application/json"}, method="POST"
    )
    return _asked(request, address, timeout_s)


def _asked(request: urllib.request.Request, address: str, timeout_s: float) -> Any:
    told = f"{address} is not an Outlast node's HTTP port: --address names one"
    try:
        with DIRECT.open(request, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        try:
            found = json.loads(error.read())
            code, message = str(found["code"]), str(found["message"])
        except (ValueError, KeyError, TypeError):
            raise CannotAsk(f"{address} answers {error.code} {error.reason}: {told}", EXIT_CLUSTER) from None
        raise CannotAsk(f"{code}: {message}", EXIT_USAGE if code in USAGE else EXIT_FAILED) from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        wanted = "--address names the HTTP port of a running node"
        raise CannotAsk(f"{address} does not answer ({reason}): {wanted}", EXIT_CLUSTER) from None
    except ValueError:
        raise CannotAsk(told, EXIT_CLUSTER) from None


def ended(error: CannotAsk) -> typer.Exit:
    """Says it, and ends the command."""
    return typer.Exit(complain(str(error), error.code))


# --- showing ---
def show(answer: Any, output: Output, lines: Iterable[str]) -> None:
    if output is Output.json:
        typer.echo(json.dumps(answer))
        return
    for line in lines:
        typer.echo(line)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "(none)") -> str:
    lines = [list(head), *([str(cell) for cell in row] for row in rows)]
    if len(lines) == 1:
        return empty
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def moment(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at_ns else "-"


def seconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e9:.3f} s" if nanoseconds else "-"


def pairs(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
