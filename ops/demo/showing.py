"""The demo's summaries, for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ops.demo.audit import Report
from ops.demo.region_audit import RegionReport

PROBLEMS_MAX = 20


def show_regions(report: RegionReport, console: Console) -> None:
    verdict = _verdict(report.problems)
    table = Table(title="two regions, one of them lost for a while", title_justify="left", show_header=False)
    table.add_row("sum of all accounts", f"{money(report.cents_before)} before, {money(report.cents_after)} after", verdict)
    done = f"{report.transferred} transferred + {report.refunded} refunded = {report.transfers}"
    table.add_row("transfers", done, f"{report.done_before_kill} before the kill, {report.late_transfers} during the fail-back")
    shares = f"silent for {report.detect_s:.1f} s, watched {report.decide_s:.1f} s, owned after {report.takeover_s:.1f} s"
    table.add_row("RTO", f"{report.rto_s:.1f} s", f"SIGKILL until region two acknowledges a write: {shares}")
    lost = f"{report.rpo_events} things in {report.rpo_workflows} workflows"
    table.add_row("RPO", lost, f"written by region one and not shipped; {report.started_again} starts made again by the client")
    explained = ", ".join(f"{count} {outcome}" for outcome, count in report.ledger.items()) or "nothing to explain"
    table.add_row("loss ledger", explained, f"{report.unexplained} unexplained")
    back = f"{report.runs_compared} histories, {report.checksum_one} and {report.checksum_two}"
    table.add_row("checksums", back, f"region one and two; equal {report.return_s:.1f} s after region one was started")
    frozen = f"{report.fail_back_ms:.0f} ms, frozen for {report.frozen_ms:.0f} ms"
    table.add_row("graceful fail-back", frozen, f"{report.fail_back_lost} lines in the ledger")
    repeated = f"{report.repeated_calls} calls, {report.repeated_bookings} bookings"
    table.add_row("repeated", repeated, "and booked once: the bank's key is the transfer id")
    table.add_row("time", f"{report.seconds:.1f} s", f"after set-up, on {report.stores}")
    console.print(table)
    _end(report.problems, report.look_next, console)


def show(report: Report, console: Console) -> None:
    table = Table(title="balance check", title_justify="left", show_header=False)
    verdict = _verdict(report.problems)
    table.add_row("sum of all accounts", f"{money(report.cents_before)} before, {money(report.cents_after)} after", verdict)
    table.add_row("transfers", f"{report.transferred} transferred + {report.refunded} refunded = {report.transfers}", "")
    table.add_row("killed with SIGKILL", f"server {report.server_kills} times, worker {report.worker_kills} time(s)", "")
    table.add_row("activities retried", f"{report.retried_activities}", "by the histories: attempt > 1")
    table.add_row("bookings asked for again", f"{report.repeated_bookings}", "and booked once: the bank's key is the transfer id")
    table.add_row("client calls repeated", f"{report.repeated_calls}", "beyond the SDK's own retries")
    table.add_row("time", f"{report.seconds:.1f} s", "")
    console.print(table)
    _end(report.problems, report.look_next, console)


def _verdict(problems: Sequence[str]) -> str:
    return "[green]ok[/]" if not problems else "[red]WRONG[/]"


def _end(problems: Sequence[str], look_next: Sequence[str], console: Console) -> None:
    for problem in problems[:PROBLEMS_MAX]:
        console.print(f"wrong: {problem}", style="red", markup=False)
    if len(problems) > PROBLEMS_MAX:
        console.print(f"... and {len(problems) - PROBLEMS_MAX} more", style="red")
    console.print("where to look next", style="bold")
    for line in look_next:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def money(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02}"
