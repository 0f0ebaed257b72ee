"""`outlast ledger`: what losing branches had that the winners' histories have not, and what became of each of these things.

A forced failover may lose what its old owner had acknowledged and not shipped. When that region returns, each such event is one
line: appended to the winner, waiting for the next run, run again, or rolled back, with the reason. Exit code 1 if one has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ops.cli.exit_codes import EXIT_FAILED
from ops.cli.region_calls import (
    DEFAULT_ADDRESS,
    Address,
    CannotAsk,
    Form,
    Output,
    ended,
    look,
    moment,
    pairs,
    show,
    table,
)


def ledger(
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="One namespace; all if not said.", show_default=False)] = "",
    summary: Annotated[bool, typer.Option("--summary", help="Only the counts.")] = False,
    address: Address = DEFAULT_ADDRESS,
    output: Form = Output.table,
) -> None:
    """What a forced failover lost or changed, event by event, and why: the loss ledger of a region."""
    try:
        page = look(address, "ledger", namespace=namespace)
    except CannotAsk as error:
        raise ended(error) from None
    show(page["summary"] if summary else page, output, _lines(page, summary))
    if page["summary"]["unexplained"]:
        raise typer.Exit(EXIT_FAILED)


def _lines(page: dict[str, Any], is_summary: bool) -> Iterator[str]:
    counts = page["summary"]
    if not is_summary:
        rows = [
            (
                one["namespace"],
                one["workflow_id"],
                one["run_id"][:8],
                f"{one['number']} {one['event']}" + ("" if one["source"] == "event" else f" ({one['source']})"),
                one["version"],
                one["outcome"] + (f" as {one['winner_event_id']}" if one["winner_event_id"] else ""),
                "yes" if one["is_past_cut"] else "-",
                moment(one["at"]),
                one["reason"],
            )
            for one in page["lines"]
        ]
        head = ("NAMESPACE", "WORKFLOW ID", "RUN", "EVENT", "VERSION", "OUTCOME", "PAST CUT", "SEEN", "REASON")
        yield table(head, rows, "no branch has lost anything")
    for cut in page["cuts"]:
        told = f"version {cut['old_version']} to {cut['new_version']}, {moment(cut['at'])}"
        yield f"cut: {cut['namespace']} was taken from {cut['peer']} by force ({told})"
    yield (
        f"region {page['region']}: {counts['lines']} lines of {counts['workflows']} workflows: {pairs(counts['by_outcome'])}; "
        f"past the cut {counts['past_cut']}, waiting {counts['waiting']}, unexplained {counts['unexplained']}"
    )
