"""One campaign: region up, load on, a course, the audit; and whether enough happened, since a run can pass by doing nothing."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Mapping, Sequence

from rich.console import Console

from chaos.cluster.audit import audit
from chaos.cluster.courses import COURSES
from chaos.cluster.plan import Plan, Report
from chaos.cluster.releases import program_of
from chaos.cluster.stage import Stage, stage

LEAST_ACKED = {"start": 20, "signal": 20, "update": 5, "completion": 3, "terminate": 3}


async def run_campaign(plan: Plan, console: Console) -> Report:
    """What went wrong is in the report, which is also saved as report.json in the plan's folder."""
    report = Report(plan)
    shutil.rmtree(plan.folder, ignore_errors=True)
    plan.folder.mkdir(parents=True)
    try:
        async with stage(plan, report, console, _programs(plan)) as it:
            await it.under_load(_course(it))
            it.say("the course is over; reading everything back")
            await audit(it)
        _too_little(report)
    except Exception:
        report.violate("came_to_its_end", f"the campaign broke off:\n{traceback.format_exc()}")
    report.save(plan.folder / "report.json")
    return report


async def _course(it: Stage) -> None:
    await COURSES[it.plan.course](it)


def _programs(plan: Plan) -> Mapping[int, Sequence[str]] | None:
    """Node 0 is of the release, where there is one to be tried."""
    return {0: [str(program_of(plan.release))]} if plan.release else None


def _too_little(report: Report) -> None:
    for kind, least in LEAST_ACKED.items():
        found = report.counts.get(f"{kind}.acked", 0)
        if found < least:
            report.violate("minimum_work", f"only {found} acknowledged {kind}s, at least {least} are wanted")
