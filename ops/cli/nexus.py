"""`outlast nexus`: endpoints with their contracts, as a catalogue and as a file, and calls of operations from a shell.

Endpoints are asked of OperatorService by gRPC (nexus_endpoints.py), operations of the gateway by HTTP (nexus_call.py). Exit
codes: exit_codes.py; `diff` ends with 1 when the file and the server differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from nexus.contract import Contract, WrongContract, parse_contract, schema_name, split_description
from ops.cli.exit_codes import EXIT_FAILED, EXIT_USAGE, complain
from ops.cli.nexus_call import call, openapi
from ops.cli.nexus_endpoints import EndpointWish, KnownEndpoint, Operator, Step, plan
from ops.cli.nexus_file import read_endpoints
from ops.cli.region_calls import CannotAsk, Form, Output, ended, show, table
from ops.region.reading import WrongSettings

app = typer.Typer(help="Nexus: endpoints, their contracts, calls.", no_args_is_help=True)
app.command()(call)
app.command()(openapi)

GrpcAddress = Annotated[str, typer.Option(help="gRPC port of any node of a region, as HOST:PORT.")]
DEFAULT_GRPC_ADDRESS = "127.0.0.1:7233"
File = Annotated[Path, typer.Argument(help="YAML: endpoints, each with name, target, description, contract.")]
TOLD_MAX = 60  # of a description, in the table


# --- catalog ---
@app.command()
def catalog(
    search: Annotated[
        str, typer.Option(help="Only what has this word in a name, a type, a target or a description.", show_default=False)
    ] = "",
    grpc_address: GrpcAddress = DEFAULT_GRPC_ADDRESS,
    output: Form = Output.table,
) -> None:
    """Endpoints, and what each of them offers by its contract."""
    try:
        with Operator(grpc_address) as operator:
            entries = [_entry(one) for one in operator.all()]
    except CannotAsk as error:
        raise ended(error) from None
    found = [entry for one in entries if (entry := _searched(one, search.casefold())) is not None]
    show(found, output, _catalog_lines(found, search))


def _entry(known: KnownEndpoint) -> dict[str, Any]:
    description, text = split_description(known.has.description)
    contract, problem = Contract(()), ""
    if text:
        try:
            contract = parse_contract(text)
        except WrongContract as error:
            problem = str(error)
    operations = [
        {
            "service": service.name,
            "operation": one.name,
            "description": one.description or service.description,
            "input": one.input,
            "output": one.output,
        }
        for service in contract.services
        for one in service.operations
    ]
    return {
        "name": known.has.name,
        "id": known.id,
        "version": known.version,
        "target": known.has.target,
        "description": description,
        "operations": operations,
        "types": contract.types,
        "contract_problem": problem,
    }


def _searched(entry: dict[str, Any], word: str) -> dict[str, Any] | None:
    """With the operations that have the word; all of them, if the endpoint itself has it."""
    if any(word in str(entry[field]).casefold() for field in ("name", "target", "description")):
        return entry
    operations = [one for one in entry["operations"] if word in _operation_text(one)]
    return {**entry, "operations": operations} if operations else None


def _operation_text(one: dict[str, Any]) -> str:
    types = (schema_name(one["input"]), schema_name(one["output"]))
    return " ".join((one["service"], one["operation"], one["description"], *types)).casefold()


def _catalog_lines(entries: list[dict[str, Any]], search: str) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    for entry in entries:
        place = (entry["name"], entry["target"])
        if not entry["operations"]:
            said = "its contract cannot be read" if entry["contract_problem"] else "no contract"
            rows.append((*place, f"({said})", "-", "-", _shortened(entry["description"])))
        for one in entry["operations"]:
            told = _shortened(one["description"] or entry["description"])
            name = f"{one['service']}/{one['operation']}"
            rows.append((*place, name, schema_name(one["input"]), schema_name(one["output"]), told))
            place = ("", "")
    head = ("ENDPOINT", "TARGET", "OPERATION", "INPUT", "OUTPUT", "DESCRIPTION")
    yield table(head, rows, f"nothing has {search!r}" if search else "there are no endpoints")
    yield from (f"  {one['name']}: {one['contract_problem']}" for one in entries if one["contract_problem"])


def _shortened(text: str) -> str:
    first = text.strip().split("\n", 1)[0]
    return first if len(first) <= TOLD_MAX else first[: TOLD_MAX - 1] + "…"


# --- apply, diff ---
@app.command()
def apply(file: File, grpc_address: GrpcAddress = DEFAULT_GRPC_ADDRESS, output: Form = Output.table) -> None:
    """Make endpoints as the file says. Twice is as once; what the file does not name is left alone."""
    wishes = _read(file)
    done: list[dict[str, Any]] = []
    failed: CannotAsk | None = None
    try:
        with Operator(grpc_address) as operator:
            for step in plan(wishes, operator.all()):
                told, refused = _applied(operator, step)
                failed = failed or refused
                done.append(told)
    except CannotAsk as error:
        raise ended(error) from None
    show(done, output, _step_lines(done))
    if failed is not None:
        raise typer.Exit(complain(f"not all of {file} is applied: {failed}", failed.code))


def _applied(operator: Operator, step: Step) -> tuple[dict[str, Any], CannotAsk | None]:
    """One that is refused does not keep the others from being made."""
    told = _told(step)
    if step.kind not in ("create", "update"):
        return told, None
    try:
        made = operator.perform(step)
    except CannotAsk as error:
        return {**told, "action": "refused", "differences": [str(error)]}, error
    past = {"create": "created", "update": "updated"}[step.kind]
    return {**told, "action": past, "id": made.id, "version": made.version}, None


@app.command()
def diff(file: File, grpc_address: GrpcAddress = DEFAULT_GRPC_ADDRESS, output: Form = Output.table) -> None:
    """What `apply` would change: exit code 1 if anything."""
    wishes = _read(file)
    try:
        with Operator(grpc_address) as operator:
            steps = plan(wishes, operator.all())
    except CannotAsk as error:
        raise ended(error) from None
    told = [_told(step) for step in steps]
    show(told, output, _step_lines(told))
    if any(step.kind in ("create", "update") for step in steps):
        raise typer.Exit(EXIT_FAILED)


def _read(file: Path) -> list[EndpointWish]:
    try:
        return read_endpoints(file)
    except WrongSettings as error:
        raise typer.Exit(complain(str(error), EXIT_USAGE)) from None


def _told(step: Step) -> dict[str, Any]:
    action = {"none": "as it is", "unknown": "not in the file"}.get(step.kind, step.kind)
    known = step.known
    return {
        "name": step.wish.name,
        "action": action,
        "target": step.wish.target,
        "id": known.id if known is not None else "",
        "version": known.version if known is not None else 0,
        "differences": list(step.differences),
    }


def _step_lines(steps: list[dict[str, Any]]) -> Iterator[str]:
    rows = [(one["name"], one["action"], one["target"], one["version"] or "-", one["id"] or "-") for one in steps]
    yield table(("ENDPOINT", "ACTION", "TARGET", "VERSION", "ID"), rows, "nothing is wished, and nothing is there")
    yield from (f"  {one['name']}: {line}" for one in steps for line in one["differences"])
