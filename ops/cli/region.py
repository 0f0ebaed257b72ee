"""`outlast region`: linked regions, how far each is behind, whether they agree, and what stands between them.

Asks any node of a region by HTTP (region_calls.py). Exit codes: exit_codes.py; `status` and `verify` end with 1 when something is
not as it should be, and say what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import EXIT_FAILED
from ops.cli.region_calls import (
    DEFAULT_ADDRESS,
    Address,
    CannotAsk,
    Form,
    Output,
    act,
    ended,
    look,
    moment,
    show,
    table,
)

app = typer.Typer(help="Other regions: links, lag, agreement, conflicts, quarantine.", no_args_is_help=True)
quarantine = typer.Typer(help="What could not be taken in of another region.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")

LINK_TIMEOUT_S = 30.0
VERIFY_TIMEOUT_S = 1_800.0  # of 10,000s of runs, whose trees are built first
LOOK_AGAIN_S = 0.5

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="One namespace; all if not said.", show_default=False)]
Id = Annotated[str, typer.Argument(help="As `list` shows it.")]


def _asking(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except CannotAsk as error:
        raise ended(error) from None


@app.command()
def link(
    other: Annotated[str, typer.Argument(help="Where the other region's clients connect: HOST:PORT of its gRPC port.")],
    own: Annotated[
        str, typer.Option(help="The same of this region, as the other one reaches it: links back as well.", show_default=False)
    ] = "",
    address: Address = DEFAULT_ADDRESS,
    output: Form = Output.table,
) -> None:
    """Link a region with another one. It takes both sides: with --own at once, else by the same command there."""
    answer = _asking(lambda: act(address, "link", {"address": other, "own_address": own}, LINK_TIMEOUT_S))
    back = "" if answer["is_linked_back"] else f"; now link back, at region {answer['region']}"
    show(answer, output, [f"linked with region {answer['region']} at {other}{back}"])


@app.command()
def unlink(
    region: Annotated[str, typer.Argument(help="Its name.")], address: Address = DEFAULT_ADDRESS, output: Form = Output.table
) -> None:
    """Forget a region. Refused while a namespace is in it."""
    answer = _asking(lambda: act(address, "unlink", {"region": region}, LINK_TIMEOUT_S))
    show(answer, output, [f"region {region} is no longer linked here"])


@app.command()
def status(
    address: Address = DEFAULT_ADDRESS,
    output: Form = Output.table,
    shards: Annotated[bool, typer.Option(help="Lag by shard, too.")] = False,
    wait_s: Annotated[float, typer.Option(min=0, help="Look again for so long until all is well.")] = 0.0,
) -> None:
    """Links, namespaces, and lag in events and in seconds: exit code 1 if something is wrong."""
    give_up_at = time.monotonic() + wait_s
    while True:
        page = _asking(lambda: look(address, "status"))
        if not page["problems"] or time.monotonic() >= give_up_at:
            break
        time.sleep(LOOK_AGAIN_S)
    show(page, output, _status_lines(page, shards))
    if page["problems"]:
        raise typer.Exit(EXIT_FAILED)


def _status_lines(page: dict[str, Any], with_shards: bool) -> Iterator[str]:
    rows: list[tuple[Any, ...]] = [(f"{page['region']} *", page["initial_failover_version"], "-", "-", "-", "-", "-")]
    for one in page["regions"]:
        state = "up" if one["is_up"] else "down" if one["is_connection_enabled"] else "disabled"
        behind = f"{one['events']}{', catching up' if one['is_catching_up'] else ''}"
        place = (one["name"], one["initial_failover_version"], one["address"], one["shards"])
        rows.append((*place, state, behind, f"{one['seconds']:.3f}"))
    yield table(("REGION", "VERSION", "ADDRESS", "SHARDS", "LINK", "EVENTS BEHIND", "SECONDS"), rows)
    yield ""
    namespaces = [
        (
            one["name"],
            one["active"],
            one["failover_version"],
            one["state"],
            ",".join(one["regions"]),
            "; ".join(_behind(peer, lag) for peer, lag in one["lag"].items()) or "-",
            one["quarantined"],
        )
        for one in page["namespaces"]
    ]
    head = ("NAMESPACE", "ACTIVE", "VERSION", "STATE", "REGIONS", "BEHIND", "QUARANTINED")
    yield table(head, namespaces, "no namespace is in several regions")
    if with_shards:
        yield ""
        places = [
            (
                one["peer"],
                one["shard"],
                one["node"],
                one["positions"],
                one["events"],
                f"{one['seconds']:.3f}",
                "yes" if one["is_catching_up"] else "-",
            )
            for one in page["shards"]
        ]
        yield table(("TO", "SHARD", "NODE", "GROUPS BEHIND", "EVENTS", "SECONDS", "CATCHING UP"), places)
    yield from (f"  {problem}" for problem in page["problems"])


def _behind(peer: str, lag: dict[str, Any]) -> str:
    runs = f" and {lag['runs_left']} runs" if lag["runs_left"] else ""
    return f"{peer} {lag['events']} events{runs}, {lag['seconds']:.3f} s"


@app.command()
def verify(
    namespace: Annotated[str, typer.Argument(help="The namespace to compare.")] = "default",
    region: Annotated[str, typer.Option(help="With which region; each that has it if not said.", show_default=False)] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Trust nothing that was read before.")] = False,
    address: Address = DEFAULT_ADDRESS,
    output: Form = Output.table,
) -> None:
    """Compare the histories and states of a namespace with other regions: exit code 1 unless equal."""
    wanted = {"namespace": namespace, "region": region, "is_fresh": fresh}
    reports = _asking(lambda: act(address, "verify", wanted, VERIFY_TIMEOUT_S))
    show(reports, output, _verify_lines(reports))
    if any(report["verdict"] != "equal" for report in reports):
        raise typer.Exit(EXIT_FAILED)


def _verify_lines(reports: list[dict[str, Any]]) -> Iterator[str]:
    rows = [
        (
            one["peer"],
            one["verdict"],
            one["runs_here"],
            one["runs_there"],
            len(one["behind"]),
            len(one["differences"]),
            len(one["healed"]),
            f"{one['seconds']:.2f}",
        )
        for one in reports
    ]
    yield table(("REGION", "VERDICT", "RUNS HERE", "RUNS THERE", "BEHIND", "DIFFERENT", "HEALED", "SECONDS"), rows)
    for report in reports:
        for what in ("differences", "behind", "healed"):
            for one in report[what]:
                run = f" run {one['run_id']}" if one["run_id"] else ""
                yield f"  {report['peer']}: {what}: {one['workflow_id']}{run}: {one['kind']}: {one['what']}"


@app.command()
def conflicts(namespace: Namespace = "", address: Address = DEFAULT_ADDRESS, output: Form = Output.table) -> None:
    """Runs that two regions wrote at once: the branches that lost, which are kept."""
    rows = _asking(lambda: look(address, "conflicts", namespace=namespace))
    head = ("NAMESPACE", "WORKFLOW ID", "RUN ID", "BRANCH", "EVENTS", "VERSION")
    shown = [
        (
            one["namespace"],
            one["workflow_id"],
            one["run_id"],
            one["branch"],
            _span(one["events_from"], one["last_event_id"]),
            one["version"],
        )
        for one in rows
    ]
    show(rows, output, [table(head, shown, "no branch has lost")])


def _span(first: int, last: int) -> str:
    """A branch may have lost nothing but attempts, which are no events."""
    return "none, only attempts" if last < first else f"{first}-{last}"


# --- quarantine ---
@quarantine.command("list")
def list_rows(address: Address = DEFAULT_ADDRESS, output: Form = Output.table) -> None:
    """All of it; the oldest first."""
    rows = _asking(lambda: look(address, "quarantine"))
    head = ("ID", "FROM", "NAMESPACE", "WORKFLOW ID", "ATTEMPTS", "SINCE", "REASON")
    shown = [
        (
            one["id"],
            one["peer"],
            one["namespace"],
            one["workflow_id"],
            one["attempts"],
            moment(one["first_at"]),
            one["reason"],
        )
        for one in rows
    ]
    show(rows, output, [table(head, shown, "nothing is in quarantine")])


@quarantine.command("show")
def show_row(id: Id, address: Address = DEFAULT_ADDRESS, output: Form = Output.table) -> None:
    """One row of it."""
    row = _asking(lambda: look(address, "quarantine", id=id))
    width = max(map(len, row))
    lines = [f"{name.ljust(width)}  {moment(value) if name.endswith('_at') else value}" for name, value in row.items()]
    show(row, output, lines)


@quarantine.command()
def retry(id: Id, address: Address = DEFAULT_ADDRESS, output: Form = Output.table) -> None:
    """Try to take it in once more: exit code 1 if that does not succeed."""
    answer = _asking(lambda: act(address, "quarantine/retry", {"id": id}, LINK_TIMEOUT_S))
    show(answer, output, ["taken in" if answer["is_taken_in"] else f"not taken in: {answer['reason']}"])
    if not answer["is_taken_in"]:
        raise typer.Exit(EXIT_FAILED)


@quarantine.command()
def drop(id: Id, address: Address = DEFAULT_ADDRESS, output: Form = Output.table) -> None:
    """Forget it. The run stays as it is here, and `outlast region verify` will name it."""
    answer = _asking(lambda: act(address, "quarantine/drop", {"id": id}, LINK_TIMEOUT_S))
    show(answer, output, [f"{id} is dropped"])


