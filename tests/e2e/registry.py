"""The registry of scenarios: each names what it proves, so that a test can ask whether every promised item is covered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.e2e.environment import Env


class Run(NamedTuple):
    """One run whose history is compared with the recorded one."""

    workflow_id: str
    run_id: str


Body = Callable[["Env"], Awaitable[list[Run]]]

# The items of the issue "one region", point 2, each to be covered by at least one scenario.
ITEMS: tuple[str, ...] = (
    "workflow task: normal", "workflow task: transient", "workflow task: speculative",
    "workflow task: start-to-close timeout", "workflow task: attempts", "workflow task: sticky",
    "workflow task: sticky fallback", "workflow task: failure causes", "workflow task: force create",
    "workflow task: buffered events", "workflow task: unhandled command", "workflow task: many commands",
    "activity: complete", "activity: schedule-to-start timeout", "activity: schedule-to-close timeout",
    "activity: start-to-close timeout", "activity: heartbeat timeout", "activity: retry", "activity: maximum attempts",
    "activity: non-retryable type", "activity: next retry delay", "activity: heartbeat details",
    "activity: cancellation", "activity: eager", "activity: by token", "activity: by id", "activity: failure types",
    "activity: pending", "activity: pause", "activity: reset", "activity: update options", "activity: local",
    "timer: fire", "timer: cancel", "child: complete", "child: fail", "child: cancel", "child: terminate",
    "child: timeout", "child: start failure", "child: parent close policy", "child: reuse policy", "external: signal",
    "external: signal failed", "external: cancel", "external: cancel failed", "query: running", "query: closed",
    "query: failed", "query: buffered task", "query: unknown type", "query: rejected", "update: complete",
    "update: rejected", "update: stages", "update: re-attach", "update: with start", "update: closed",
    "continue-as-new", "workflow: retry", "workflow: cron", "workflow: start delay", "workflow: terminate",
    "workflow: cancel", "workflow: reset", "workflow: reset reapply", "workflow: execution timeout",
    "workflow: run timeout", "workflow: pause", "workflow: id reuse policy", "workflow: id conflict policy",
    "workflow: signal with start", "workflow: request id", "workflow: callbacks", "workflow: links",
    "workflow: priority", "workflow: user metadata", "workflow: eager start", "workflow: signal",
    "workflow: versioning untouched", "workflow: delete", "marker", "search attributes", "memo", "visibility: count",
    "visibility: list", "visibility: describe", "history: long poll", "history: reverse", "history: close event",
    "history: paging", "nexus: synchronous", "nexus: workflow run", "nexus: failures", "nexus: cancellation",
    "nexus: time-outs", "nexus: several callers", "nexus: retry", "nexus: endpoints", "nexus: reset", "nexus: callbacks",
)  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    name: str
    items: tuple[str, ...]
    body: Body


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, *, items: list[str]) -> Callable[[Body], Body]:
    """Registers a scenario; an unknown item or a second scenario of that name is a mistake in the corpus."""
    unknown = set(items) - set(ITEMS)
    if unknown:
        raise ValueError(f"scenario {name}: unknown items {sorted(unknown)}")

    def register(body: Body) -> Body:
        if name in SCENARIOS:
            raise ValueError(f"two scenarios are called {name}")
        SCENARIOS[name] = Scenario(name, tuple(items), body)
        return body

    return register
