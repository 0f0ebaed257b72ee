"""The checks of a start that need more than the request: the namespace's search attributes, cron schedules, callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from cluster.config import Limits
from cluster.core.errors import invalid_argument, unimplemented
from cluster.core.machines.builds import check_override
from cluster.core.machines.callback import check as check_callbacks
from cluster.frontend.call import Call
from cluster.frontend.request_checks import check_payload_bytes
from cluster.visibility.search_attributes import Schema, validate

if TYPE_CHECKING:
    from cluster.namespaces.record import NamespaceRecord

# Says whether a cron schedule is well formed and ever comes: raises ValueError, or returns the next time (ns), or None.
NextCron = Callable[[str, int], int | None]


class StartChecks:
    def __init__(
        self,
        limits: Limits,
        schema_of: Callable[[NamespaceRecord], Schema],
        next_cron: NextCron,
        now_ns: Callable[[], int],
    ) -> None:
        self._limits = limits
        self._schema_of = schema_of
        self._next_cron = next_cron
        self._now_ns = now_ns

    def check_cron(self, schedule: str) -> None:
        if not schedule:
            return
        try:
            following = self._next_cron(schedule, self._now_ns())
        except ValueError:
            raise invalid_argument("invalid CronSchedule.") from None
        if following is None:
            raise invalid_argument("invalid CronSchedule, no time can be found to satisfy the schedule")

    def check_search_attributes(self, call: Call, request: Any) -> None:
        if not request.HasField("search_attributes"):
            return
        assert call.record is not None
        schema = self._schema_of(call.record)
        for name in request.search_attributes.indexed_fields:
            if schema.type_of(name) is None:
                raise invalid_argument(f"Namespace {call.namespace} has no mapping defined for search attribute {name}")
        validate(request.search_attributes, schema, self._limits, call.namespace)

    def check_callbacks(self, callbacks: Iterable[Any]) -> None:
        """How many and of what kind. They are kept with the run; which addresses they may go to is checked when one is sent."""
        check_callbacks(list(callbacks), self._limits)

    def refuse_what_is_not_built(self, request: Any) -> None:
        if request.HasField("versioning_override"):
            check_override(request.versioning_override, request.task_queue.name)
        if request.HasField("time_skipping_config"):
            raise unimplemented("The Time-Skipping feature is not enabled for namespace.")

    def check_sizes(self, request: Any, payloads: Any) -> None:
        check_payload_bytes(payloads, self._limits)
        if request.memo.ByteSize() > self._limits.memo_bytes_max:
            raise invalid_argument("Memo size exceeds limit.")
