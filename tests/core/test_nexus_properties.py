"""Whatever handlers, callers and time do, in whatever order: each operation begins, starts and ends at most once.

`Run` itself checks after each step that entries and state agree, that the snapshot is the state, and that public history
gives the same state but for its notes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from temporalio.api.command.v1 import Command

from cluster.core import due
from cluster.core.apply import EVENT_NAMES
from cluster.core.effects import CancelNexusOperation, DeliverCallback, StartNexusOperation, effects
from cluster.core.errors import CallerError
from cluster.core.events import SECOND_NS, attributes_of
from cluster.core.machines import nexus_results
from cluster.core.machines.callback import position as callback_position
from tests.core.build import Run
from tests.core.nexus_stories import (
    AWAY,
    attach,
    callback_to,
    request_cancel,
    schedule,
    seconds,
    tell_callback,
    tell_operation,
)
from tests.e2e import commands

NOT_THE_END = (
    "starts",
    "is away",
    "is blocked",
    "is let through",
    "hears the cancel",
    "refuses the cancel",
    "is away for the cancel",
    "is blocked for the cancel",
    "is let through for the cancel",
)
THE_END = (
    "completes",
    "fails",
    "is cancelled",
    "is refused",
    "calls back with a result",
    "calls back with a failure",
    "calls back cancelled",
)
TO_CALLBACKS = ("is heard", "is refused", "is not reached", "is blocked", "is let through")
ENDS = ("NexusOperationCompleted", "NexusOperationFailed", "NexusOperationCanceled", "NexusOperationTimedOut")


def wishes(run: Run, draw: Random) -> list[Command]:
    found = []
    for _ in range(draw.randrange(4)):
        spans: dict[str, Any] = {
            name: seconds(draw.choice((1, 2, 5, 30)))
            for name in ("schedule_to_close_timeout", "schedule_to_start_timeout", "start_to_close_timeout")
            if draw.random() < 0.4
        }
        found.append(schedule(**spans))
    if run.state.operations and draw.random() < 0.8:
        found.append(request_cancel(draw.choice(list(run.state.operations))))
    if draw.random() < 0.1:
        found.append(commands.complete())
    return found


def step(run: Run, kind: int, draw: Random) -> None:
    state = run.state
    known = [one.event_id for one in run.events() if EVENT_NAMES[one.event_type] == "NexusOperationScheduled"]
    if kind == 0 and state.task is not None and not state.task.is_started:
        run.start_task()
    elif kind == 1 and state.has_started_task:
        run.answer(*wishes(run, draw))
    elif kind == 2:
        run.now += draw.choice((0, 1, 3, 8)) * SECOND_NS // 4
    elif kind == 3:
        run.now = max(run.now, due.wake_at(state))
    elif kind == 4 and state.is_open:
        run.signal()
    elif kind == 5 and state.is_open and draw.random() < 0.1:
        run.terminate()
    elif kind == 6 and state.is_open:
        attach(run, draw.choice("abc"), request_id=str(draw.random()))
    elif kind == 7 and state.callbacks:
        tell_callback(run, draw.randrange(len(state.callbacks)), draw.choice(TO_CALLBACKS))
    elif kind == 8 and known:  # an attempt of long ago is told
        run.do(lambda t: nexus_results.record_attempt_failed(t, draw.choice(known), draw.randrange(3), AWAY))
    elif known:
        what = draw.choice(THE_END if draw.random() < 0.2 else NOT_THE_END)
        tell_operation(run, draw.choice(known), what, at=run.now - draw.randrange(10) * SECOND_NS)


def check(run: Run) -> None:
    run.wake()
    wake_at = due.wake_at(run.state)
    assert wake_at == 0 or wake_at > run.now, "something stayed due"
    seen: dict[int, list[str]] = {}
    for event in run.events():
        name = EVENT_NAMES[event.event_type]
        if name == "NexusOperationScheduled":
            seen[event.event_id] = []
        elif name.startswith("NexusOperation"):
            about = seen[getattr(attributes_of(event), "scheduled_event_id")]  # noqa: B009 the type is one of many
            assert not about or about[-1] not in ENDS, "something happened behind the operation's end"
            about.append(name)
    for names in seen.values():
        assert max(Counter(names).values(), default=0) <= 1, names
        asked = [one for one in names if one.startswith("NexusOperationCancelRequest")]
        assert len(asked) <= 2 and (not asked or asked[0] == "NexusOperationCancelRequested"), names
        assert len(asked) < 2 or "NexusOperationStarted" in names[: names.index(asked[1])], "no token, no cancel"
    owed = effects(run.state)
    assert len(owed) == len(set(owed))
    for one in owed:
        if isinstance(one, StartNexusOperation | CancelNexusOperation):
            assert run.state.is_open and one.scheduled_event_id in run.state.operations
        elif isinstance(one, DeliverCallback):
            assert not run.state.is_open
    if not run.state.is_open:
        assert not [one for one in run.state.callbacks if callback_position(one) == "standby"], "a callback is forgotten"


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 13), st.integers(0, 10_000)), min_size=5, max_size=60))
def test_whatever_comes_in_whatever_order_each_operation_ends_at_most_once(steps: list[tuple[int, int]]) -> None:
    run = Run(completion_callbacks=[callback_to("first")])
    run.task(schedule(), schedule(schedule_to_close_timeout=seconds(9)))
    for kind, other in steps:
        with contextlib.suppress(CallerError):
            step(run, kind, Random(other))
        check(run)
        if run.state.task is None and run.state.is_open:
            run.signal()


def test_a_walk_without_an_accident_comes_to_all_ends() -> None:
    """The walk really walks: over some seeds each event of an operation is written, and each state of a callback reached."""
    names: set[str] = set()
    places: set[str] = set()
    for seed in range(80):
        draw = Random(seed)
        run = Run(completion_callbacks=[callback_to("first")])
        run.task(schedule(), schedule())
        for _ in range(60):
            with contextlib.suppress(CallerError):
                step(run, draw.randrange(14), draw)
            check(run)
            places |= {callback_position(one) for one in run.state.callbacks}
            if run.state.task is None and run.state.is_open:
                run.signal()
        names |= {line.split()[1] for line in run.history().splitlines()}
    assert names >= {*ENDS, "NexusOperationStarted", "NexusOperationCancelRequestCompleted", "NexusOperationCancelRequestFailed"}
    assert places == {"standby", "scheduled", "blocked", "backing off", "succeeded", "failed"}
