"""`outlast failover`: which region owns a namespace: what to look at before, the move itself, what is going on, and the way back.

Asks any node of a linked region by HTTP (region_calls.py). `plan` ends with 1 when a graceful failover would not begin, `run` and
`rollback` when a namespace did not move: what happened to each is told either way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Thread
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import EXIT_FAILED, EXIT_USAGE, complain
from ops.cli.region_calls import (
    DEFAULT_ADDRESS,
    LOOK_TIMEOUT_S,
    Address,
    CannotAsk,
    Form,
    Output,
    act,
    ended,
    look,
    moment,
    seconds,
    show,
    table,
)

app = typer.Typer(help="Move namespaces between regions.", no_args_is_help=True)

PROGRESS_S = 1.0
AT_ONCE = 16  # namespaces that one call moves: as many as a node moves at once (replication/control.py)
TIMEOUT_DEFAULT_S = 60.0

To = Annotated[str, typer.Option(help="The region to move to.")]
Names = Annotated[list[str] | None, typer.Argument(help="Namespaces.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Every namespace that could move there.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Of a graceful failover: then it is as it was (or forced, with --hybrid).")]


def _asking(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except CannotAsk as error:
        raise ended(error) from None


@app.command()
def plan(
    to: To, names: Names = None, all_: All = False, address: Address = DEFAULT_ADDRESS, output: Form = Output.table
) -> None:
    """What to look at before a failover, each with its reason: exit code 1 if a graceful one would not begin."""
    checks = _checks(address, _wanted(names, all_), to)
    show(checks, output, _plan_lines(checks))
    if any(check["is_hard"] and not check["ok"] for check in checks):
        raise typer.Exit(EXIT_FAILED)


def _wanted(names: Sequence[str] | None, is_all: bool) -> list[str]:
    """[] = all."""
    if bool(names) == is_all:
        raise typer.Exit(complain("name the namespaces, or say --all", EXIT_USAGE))
    return list(names or [])


def _checks(address: str, names: list[str], to: str) -> list[dict[str, Any]]:
    def of(name: str) -> list[dict[str, Any]]:
        return list(_asking(lambda: look(address, "failover/plan", namespace=name, to=to)))

    return [check for name in names or [""] for check in of(name)]


def _plan_lines(checks: list[dict[str, Any]]) -> Iterator[str]:
    words = {(True, True): "ok", (True, False): "ok", (False, True): "NO", (False, False): "wait"}
    rows = [(one["namespace"], one["name"], words[one["ok"], one["is_hard"]], one["reason"] or "-") for one in checks]
    yield table(("NAMESPACE", "CHECK", "", "REASON"), rows, "no namespace could move there")


@app.command()
def run(
    to: To,
    names: Names = None,
    all_: All = False,
    graceful: Annotated[bool, typer.Option("--graceful", help="Freeze, hand over all of it, go on: nothing is lost.")] = False,
    force: Annotated[bool, typer.Option("--force", help="At once, whether the owner answers or not.")] = False,
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Graceful for --timeout-s, then forced.")] = False,
    without_witness: Annotated[
        bool, typer.Option("--without-witness", help="With --force, when the witness is gone as well: nobody else must do it.")
    ] = False,
    timeout_s: Timeout = TIMEOUT_DEFAULT_S,
    address: Address = DEFAULT_ADDRESS,
    output: Form = Output.table,
) -> None:
    """Move namespaces to a region. Graceful unless something else is said. Exit code 1 if one of them did not move."""
    kind = _kind(graceful, force, hybrid)
    if without_witness and not force:
        raise typer.Exit(complain("--without-witness goes with --force", EXIT_USAGE))
    wanted = _wanted(names, all_)
    if kind == "graceful":
        _refuse_what_cannot_begin(address, wanted, to)
    if not wanted:
        page = _asking(lambda: look(address, "status"))
        wanted = [one["name"] for one in page["namespaces"] if to in one["regions"] and one["active"] != to]
    _end_with(_moved(address, wanted, to, kind, timeout_s, output, without_witness), output)


def _kind(graceful: bool, force: bool, hybrid: bool) -> str:
    if graceful + force + hybrid > 1:
        raise typer.Exit(complain("one of --graceful, --force, --hybrid", EXIT_USAGE))
    return "forced" if force else "hybrid" if hybrid else "graceful"


def _refuse_what_cannot_begin(address: str, names: list[str], to: str) -> None:
    """A namespace that is there already is no reason to refuse: it is told as done."""
    checks = _checks(address, names, to)
    failing = [one for one in checks if one["is_hard"] and not one["ok"] and one["name"] != "moves"]
    if failing:
        for one in failing:
            complain(f"{one['namespace']}: {one['name']}: {one['reason']}", EXIT_FAILED)
        told = "nothing was moved; --hybrid or --force move in spite of it"
        raise typer.Exit(complain(told, EXIT_FAILED))


def _moved(
    address: str, names: list[str], to: str, kind: str, timeout_s: float, output: Output, without_witness: bool = False
) -> list[dict[str, Any]]:
    """So many at a time, with progress on standard error."""
    reports: list[dict[str, Any]] = []
    limit_s = 2 * timeout_s + LOOK_TIMEOUT_S
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        done: list[Any] = []

        def ask(some: list[str] = some, done: list[Any] = done) -> None:
            try:
                wanted = {"namespaces": some, "to": to, "kind": kind, "timeout_s": timeout_s}
                wanted |= {"without_witness": without_witness}
                done.append(act(address, "failover/run", wanted, limit_s))
            except CannotAsk as error:
                done.append(error)

        asking = Thread(target=ask, name="failover", daemon=True)
        asking.start()
        began_s, next_s = time.monotonic(), PROGRESS_S
        while asking.is_alive():
            asking.join(0.05)
            if time.monotonic() - began_s > next_s:
                next_s += PROGRESS_S
                told = f"{len(reports)} of {len(names)} moved or refused; {', '.join(some[:5])} under way"
                typer.echo(f"{told} for {time.monotonic() - began_s:.0f} s", err=True)
        if isinstance(done[0], CannotAsk):
            if reports:
                show(reports, output, _report_lines(reports))
            raise ended(done[0])
        reports += done[0]
        if len(names) > AT_ONCE:
            typer.echo(f"{len(reports)} of {len(names)} {math.floor(100 * len(reports) / len(names))} %", err=True)
    return reports


def _end_with(reports: list[dict[str, Any]], output: Output) -> None:
    show(reports, output, _report_lines(reports))
    if not all(report["is_done"] for report in reports):
        raise typer.Exit(EXIT_FAILED)


def _report_lines(reports: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        (
            one["namespace"],
            one["kind"],
            one["moved_from"] or "-",
            one["to"],
            "moved" if one["is_done"] else "NOT MOVED",
            one["version"],
            "?" if one["events_behind"] is None else one["events_behind"],
            seconds(one["freeze_ns"]),
            seconds(one["total_ns"]),
            one["reason"] or "-",
        )
        for one in reports
    ]
    head = ("NAMESPACE", "KIND", "FROM", "TO", "", "VERSION", "EVENTS BEHIND", "FROZEN", "TOOK", "REASON")
    yield table(head, rows, "no namespace could move there")


@app.command()
def status(address: Address = DEFAULT_ADDRESS, output: Form = Output.table) -> None:
    """Who owns what, the lease at the witness, what the automatic failover sees, and what it has moved."""
    page = _asking(lambda: look(address, "failover/status"))
    show(page, output, _status_lines(page))


def _status_lines(page: dict[str, Any]) -> Iterator[str]:
    if page["has_witness"]:
        held = page["lease_held_s"]
        lease = f"held for {held:.1f} s more" if held and held > 0 else "NOT HELD"
        ready = ", ".join(page["may_be_taken_over_by"]) or "nobody, their lag is not known"
        yield f"region {page['region']}: lease at the witness {lease}; if it is lost, this may be taken over by {ready}"
    else:
        yield f"region {page['region']}: there is no witness, so nothing fails over by itself"
    for region, state in page["regions"].items():
        yield f"region {region}: {state}"
    rows = [
        (
            one["name"],
            one["active"],
            one["failover_version"],
            one["state"] + (f" (waiting: {page['waiting'][one['name']]})" if one["name"] in page["waiting"] else ""),
            moment(one["history"][-1]["at"]) if one["history"] else "-",
        )
        for one in page["namespaces"]
    ]
    yield table(("NAMESPACE", "ACTIVE", "VERSION", "STATE", "SINCE"), rows, "no namespace is in several regions")
    for move in page["moves"]:
        yield f"automatic: taken over from {move['region']}, first record {seconds(move['first_record_ns'])} after its last sign"
        for one in move["reports"]:
            told = f"detect {seconds(one['detect_ns'])}, decide {seconds(one['decide_ns'])}, record {seconds(one['record_ns'])}"
            yield f"  {one['namespace']}: {told}, events behind {one['events_behind']}"


@app.command()
def rollback(
    names: Names = None,
    force: Annotated[bool, typer.Option("--force", help="At once, whether the owner answers or not.")] = False,
    timeout_s: Timeout = TIMEOUT_DEFAULT_S,
    address: Address = DEFAULT_ADDRESS,
    output: Form = Output.table,
) -> None:
    """Move namespaces back to the region that owned them before their last failover. Graceful unless --force."""
    if not names:
        raise typer.Exit(complain("name the namespaces", EXIT_USAGE))
    page = _asking(lambda: look(address, "failover/status"))
    regions = _asking(lambda: look(address, "status"))
    owners = {one["initial_failover_version"]: one["name"] for one in regions["regions"]}
    owners[regions["initial_failover_version"]] = regions["region"]
    known = {one["name"]: one for one in page["namespaces"]}
    reports: list[dict[str, Any]] = []
    for name in names:
        before = _owner_before(known.get(name), owners, regions["failover_version_increment"])
        if before is None:
            raise typer.Exit(complain(f"{name}: no earlier owner is known, or none that is linked", EXIT_USAGE))
        if not force:
            _refuse_what_cannot_begin(address, [name], before)
        reports += _moved(address, [name], before, "forced" if force else "graceful", timeout_s, output)
    _end_with(reports, output)


def _owner_before(namespace: dict[str, Any] | None, owners: dict[int, str], increment: int) -> str | None:
    """The last one in the namespace's history that is not its owner now."""
    for one in reversed(namespace["history"] if namespace is not None else []):
        owner = owners.get(one["version"] % increment)
        if namespace is not None and owner is not None and owner != namespace["active"]:
            return owner
    return None
