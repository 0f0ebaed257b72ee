"""`outlast nexus call` and `openapi`: the HTTP gateway of any node, asked by the client of sdk/nexus_http."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

import typer

from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED, EXIT_USAGE, complain
from ops.cli.region_calls import DEFAULT_ADDRESS, DIRECT, LOOK_TIMEOUT_S, Address, CannotAsk, Form, Output, ended, show

REQUEST_TIMEOUT = timedelta(seconds=10)
ATTEMPTS_MAX = 4  # somebody waits before a screen
USAGE = ("BAD_REQUEST", "UNAUTHENTICATED", "UNAUTHORIZED", "NOT_FOUND", "CONFLICT", "NOT_IMPLEMENTED")


def call(
    endpoint: Annotated[str, typer.Argument(help="Its name or its id.")],
    operation: Annotated[str, typer.Argument(metavar="SERVICE/OPERATION", help="A '/' inside of a name is written %2F.")],
    input: Annotated[
        str, typer.Option("--input", "-i", help="JSON, @FILE, or - for standard input; nothing is null.", show_default=False)
    ] = "",
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Of the whole operation; then it is asked to stop.")] = 60.0,
    request_id: Annotated[
        str, typer.Option(help="The same again starts nothing new; a new one if not said.", show_default=False)
    ] = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Only start it; the answer has its token.")] = False,
    contract: Annotated[
        Path | None, typer.Option(help="Check input and result by this .nexusrpc.yaml.", show_default=False)
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    output: Form = Output.table,
) -> None:
    """Call an operation and print its result: exit code 1 if it failed, 2 if the call was wrong, 5 if nobody answers."""
    service, slash, name = operation.partition("/")
    if not slash or not service or not name or "/" in name:
        raise typer.Exit(complain("the operation is named as SERVICE/OPERATION", EXIT_USAGE))
    service, name = unquote(service), unquote(name)
    sent = _input(input)
    rule = _Rule(contract, service, name)
    rule.check("input", sent)
    base = f"http://{address}/nexus/endpoints/{quote(endpoint, safe='')}/services"
    try:
        answer = asyncio.run(_called(base, service, name, sent, timeout_s, request_id, no_wait))
    except CannotAsk as error:
        raise ended(error) from None
    if answer["state"] == "succeeded":
        rule.check("output", answer["result"])
    shown = answer["result"] if answer["state"] == "succeeded" else answer["token"]
    show(answer, output, [json.dumps(shown, indent=2, ensure_ascii=False) if answer["state"] == "succeeded" else str(shown)])


async def _called(
    base: str, service: str, name: str, sent: Any, timeout_s: float, request_id: str, no_wait: bool
) -> dict[str, Any]:
    """{state, token, result}. Raises CannotAsk."""
    from nexusrpc import HandlerError, OperationError

    from sdk.nexus_http.client import NexusClient, OperationTimedOut, RetryRules, StartOptions

    timeout = timedelta(seconds=timeout_s)
    options: StartOptions = {"operation_timeout": timeout}
    if request_id:
        options["request_id"] = request_id
    rules = RetryRules(attempts_max=ATTEMPTS_MAX)
    try:
        async with NexusClient(base, service, retry=rules, request_timeout=min(timeout, REQUEST_TIMEOUT)) as client:
            handle = await client.start(name, sent, **options)
            if no_wait and not handle.is_done:
                return {"state": "running", "token": handle.token, "result": None}
            return {"state": "succeeded", "token": handle.token, "result": await handle.result(timeout)}
    except OperationError as error:
        raise CannotAsk(f"the operation {error.state.value}: {_causes(error)}", EXIT_FAILED) from None
    except OperationTimedOut as error:
        raise CannotAsk(str(error), EXIT_FAILED) from None
    except HandlerError as error:
        if error.type.value == "UNAVAILABLE" and error.original_failure is None:
            raise CannotAsk(f"{base} does not answer ({_causes(error)})", EXIT_CLUSTER) from None
        code = EXIT_USAGE if error.type.value in USAGE else EXIT_FAILED
        raise CannotAsk(f"{error.type.value}: {_causes(error)}", code) from None


def _causes(error: BaseException) -> str:
    told = [str(error)]
    while (cause := error.__cause__) is not None:
        error = cause
        if str(cause) and str(cause) not in told:
            told.append(str(cause))
    return ": ".join(told)


def _input(text: str) -> Any:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
        return json.loads(text) if text.strip() else None
    except (OSError, ValueError) as error:
        raise typer.Exit(complain(f"--input: {error}", EXIT_USAGE)) from None


class _Rule:
    """What the contract says of the operation; nothing without one."""

    def __init__(self, path: Path | None, service: str, name: str) -> None:
        self._contract, self._operation, self._path = None, None, path
        if path is None:
            return
        from nexus.contract import WrongContract, parse_contract

        try:
            self._contract = parse_contract(path.read_text())
        except (OSError, UnicodeDecodeError, WrongContract) as error:
            raise typer.Exit(complain(f"{path}: {error}", EXIT_USAGE)) from None
        self._operation = self._contract.find(service, name)
        if self._operation is None:
            raise typer.Exit(complain(f"{path} has no {service}/{name}", EXIT_USAGE))

    def check(self, side: str, value: Any) -> None:
        if self._contract is None or self._operation is None:
            return
        schema = self._operation.input if side == "input" else self._operation.output
        if problems := self._contract.problems(schema, value):
            told = "\n".join(f"the {side} is not as {self._path} says: {problem}" for problem in problems)
            raise typer.Exit(complain(told, EXIT_USAGE if side == "input" else EXIT_FAILED))


def openapi(address: Address = DEFAULT_ADDRESS) -> None:
    """Print the gateway's OpenAPI 3.1 document."""
    try:
        with DIRECT.open(f"http://{address}/nexus/openapi.json", timeout=LOOK_TIMEOUT_S) as answer:
            document = json.load(answer)
    except (OSError, ValueError) as error:
        told = f"{address} has no such document ({error}): --address names the HTTP port of a running node"
        raise typer.Exit(complain(told, EXIT_CLUSTER)) from None
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
