"""What was told to a branch (or a run) that lost reaches the workflow: the active region appends it to the winner, once.

the winner               what becomes of what was told
-----------------------  ------------------------------------------------------------------------------------------------
is open                  appended to it (core/reapply.py)
closed, and is current   it is reset to its last workflow task, and it is appended to the new run
closed, another is open  appended to that one
closed otherwise         kept in the winner's inbox until a run of the workflow id begins; that one is given it (inboxes.py)

Whatever is appended, and the note on the winner that it was, and the end of a run that lost its workflow id, are one append.
The ledger's lines are durable before it. So a crash at any point leads to the same once more, and nothing is there twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest

from cluster.core.apply import fold_events
from cluster.core.branches import Head, contains, head_of, lca_event, lca_transition
from cluster.core.entry import CloseNote, InboxNote
from cluster.core.errors import CallerError, Code
from cluster.core.events import parse_events
from cluster.core.ledger import REAPPLIED, LedgerLine, Outcome, encode_line
from cluster.core.machines import lifecycle
from cluster.core.machines import reset as machine
from cluster.core.reapply import reapply
from cluster.core.salvage import salvage
from cluster.core.state import InboxItem, RunState, Status
from cluster.core.table import IllegalTransition
from cluster.core.transition import Transition
from cluster.history.current_runs import name_of
from cluster.history.events import BLOB_BRANCH
from cluster.history.foreign_entries import at_hand, is_as_it_was, store_events
from cluster.history.regions import may_write
from cluster.history.run import Run
from cluster.stores.base import RunKey

if TYPE_CHECKING:
    from cluster.history.replicas import Replicas
    from cluster.history.shard import Shard

RESET_REASON = "Another region's history of this workflow was told this after the workflow had closed here."
NOT_RESET = "the winner has closed, and has no workflow task to be reset to: for the next run of the workflow id"
ENDS = ("WorkflowExecutionTerminated", "WorkflowExecutionCancelRequested")  # not what waits for a run that may come
Changes = list[tuple[Run | None, Transition]]


class Poison(Exception):
    """The delta cannot be taken in, now or later: it goes into quarantine, and the run here stays as it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Lost(NamedTuple):
    """A branch that lost, or a whole run: then it is in memory, and still open."""

    state: RunState
    events_from: int
    events: list[bytes]
    run: Run | None = None

    @property
    def head(self) -> Head:
        return head_of(self.state)

    def events_after(self, event_id: int) -> list[bytes]:
        return self.events[max(0, event_id + 1 - self.events_from) :]


async def settle_loss(shard: Shard, key: RunKey, lost: Lost) -> list[LedgerLine]:
    """key: the winner's. Returns the ledger's lines, [] where another region acts. Raises Poison, CallerError, StoreError."""
    while True:
        run = await at_hand(shard, key)
        if run is None or run.state.is_deleted or not may_write(shard.regions, run.state) or _is_over(lost):
            return []
        state, head = run.state, head_of(run.state)
        if lost.run is None and contains(head, lost.head):
            return []  # it has not lost after all
        common, transition = (lca_event(head, lost.head).number, lca_transition(head, lost.head).number)
        if lost.run is not None:
            common = transition = 0
        elif lost.events_from > common + 1:
            raise Poison(f"events of the losing branch from {lost.events_from} on, and {common + 1} is where it begins")
        ours = await shard.events(run, common + 1, state.next_event_id - 1)
        astray = await _astray(shard, state)
        lines = _lines(shard, run, state, lost, common, transition, ours, astray)
        ledger = await _replicas(shard).losses.write(lines)
        given = await _carry_out(shard, run, state, lost, lines) if is_as_it_was(shard, run, key, state) else None
        shard.require_open()
        if given is not None:
            await _replicas(shard).losses.say_where(given)
            where = {(line.source, line.number): line for line in given}
            return [where.get((line.source, line.number), line) for line in ledger]


def _is_over(lost: Lost) -> bool:
    """Of a whole run: somebody has ended it meanwhile, or it has gone on."""
    return lost.run is not None and (lost.run.is_evicted or lost.run.state is not lost.state)


async def _astray(shard: Shard, state: RunState) -> frozenset[str]:
    """Keys of what the winner gave to runs that do not have it: the branch that had it may have lost as well."""
    found = set()
    for key, item in state.inbox.items():
        taker = await shard.run(RunKey(state.namespace_id, state.workflow_id, item.given_to)) if item.given_to else None
        if taker is not None and not taker.state.has_been_told(key):
            found.add(key)
    return frozenset(found)


def _lines(
    shard: Shard,
    run: Run,
    state: RunState,
    lost: Lost,
    common: int,
    transition: int,
    ours: list[bytes],
    astray: frozenset[str],
) -> list[LedgerLine]:
    try:
        return salvage(
            state,
            lost.state,
            common_event_id=common,
            common_transition=transition,
            loser_events=lost.events_after(common),
            winner_events=ours,
            may_reset=shard.current_runs.get(name_of(run.key)) is run,
            adopts_activities=shard.regions.adopts_activities(run.key.namespace_id),
            astray=astray,
            has_taker=_is_followed(shard, run),
        )
    except (ValueError, IllegalTransition) as error:
        raise Poison(f"what lost cannot be salvaged: {error!r}") from error


async def _carry_out(
    shard: Shard, run: Run, state: RunState, lost: Lost, lines: list[LedgerLine]
) -> list[LedgerLine] | None:
    """The lines that were appended, and where. None: something has changed meanwhile, judge anew."""
    wanted = [line for line in lines if line.outcome in REAPPLIED]
    # What ends the winner comes last: nothing can be appended behind it.
    wanted.sort(key=lambda line: line.name == ENDS[0])
    if not wanted and lost.run is None:
        return []
    if any(line.name in ENDS for line in wanted) and not (state.is_open or _is_followed(shard, run)):
        return None
    if any(line.outcome is Outcome.RESET for line in wanted):
        found = await _reset(shard, run, state, lost, wanted)
        if found is not None or _is_over(lost) or not is_as_it_was(shard, run, run.key, state):
            return found
        lines = [replace(one, outcome=Outcome.INBOX, reason=NOT_RESET) if one.outcome is Outcome.RESET else one for one in lines]
        wanted = [line for line in lines if line.outcome in REAPPLIED]
        await _replicas(shard).losses.write(lines)
        if not is_as_it_was(shard, run, run.key, state):
            return None
    if not state.is_open and taker_of(shard, run) is None and wanted:
        await _replicas(shard).inboxes.holders.note(run.key)
        if not is_as_it_was(shard, run, run.key, state) or taker_of(shard, run) is not None:
            return None
    if _is_over(lost):
        return None
    taker = run if state.is_open else taker_of(shard, run)
    t = shard.begin(run)
    given: list[LedgerLine] = []
    changes: Changes = []
    if taker is run:
        given = append_lines(t, wanted)
    elif taker is not None:
        t_taker = shard.begin(taker)
        given = append_lines(t_taker, wanted)
        changes.append((taker, t_taker))
    if not state.is_open:
        for line in wanted:
            given_to = "" if taker is None else taker.key.run_id
            t.note(InboxNote(line.key, InboxItem(b"" if given_to else encode_line(line), given_to)))
    changes += [(run, t), *_end(shard, lost, taker or run)]
    await shard.commit(*changes)
    return given


def append_lines(t: Transition, lines: list[LedgerLine], *, schedules_task: bool = True) -> list[LedgerLine]:
    """The lines that this run did not have, with the places they got."""
    given = []
    for line in lines:
        before = t.state.next_event_id
        if reapply(t, line, schedules_task=schedules_task):
            event_id = before if t.state.next_event_id > before else 0  # else it is buffered
            given.append(replace(line, winner_run_id=t.state.run_id, winner_event_id=event_id))
    return given


def taker_of(shard: Shard, closed: Run) -> Run | None:
    """The run that has the workflow id now, and can be told what the closed one cannot."""
    current = shard.current_runs.get(name_of(closed.key))
    if current is None or current is closed or not current.state.is_open or current.state.is_deleted:
        return None
    return current if may_write(shard.regions, current.state) and not current.is_evicted else None


def _end(shard: Shard, lost: Lost, winner: Run) -> Changes:
    """Of two runs of one workflow id the active region ends the one that is not current."""
    loser = lost.run
    if loser is None:
        return []
    t = shard.begin(loser)
    fate = "and it has been deleted" if winner.state.is_deleted else "which is the current one"
    reason = f"Another region began run {winner.key.run_id} of this workflow, {fate}."
    lifecycle.terminate(t, reason=reason, details=None, identity=lifecycle.HISTORY_SERVICE)
    # Another run has taken its place; a parent that wished for both hears of that one's end.
    t.note(CloseNote(t.state.parent_told or _is_same_child(loser.state, winner.state), winner.key.run_id))
    return [(loser, t)]


def _is_same_child(one: RunState, other: RunState) -> bool:
    if one.parent is None or other.parent is None:
        return False
    wish, same = one.parent, other.parent
    return (wish.run_id, wish.initiated_event_id) == (same.run_id, same.initiated_event_id)


def _is_followed(shard: Shard, closed: Run) -> bool:
    """Whether an open run has taken the place of this one: continued it, or was current when it lost its workflow id."""
    return bool(closed.state.new_run_id or closed.state.reset_run_id) and taker_of(shard, closed) is not None


async def _reset(
    shard: Shard, run: Run, state: RunState, lost: Lost, lines: list[LedgerLine]
) -> list[LedgerLine] | None:
    """As reset_workflow_execution does it, to the last workflow task that was completed. None: it cannot be done (any more)."""
    key = RunKey(run.key.namespace_id, run.key.workflow_id, shard.ids.uuid())
    finish_id = state.last_completed_id
    events = await shard.events(run, 1, state.next_event_id - 1)
    prefix = events[: finish_id - 1]
    try:
        base = machine.base_state(fold_events(key.namespace_id, key.workflow_id, key.run_id, prefix))
    except CallerError as error:
        if error.code is not Code.INVALID_ARGUMENT:
            raise
        return None
    await store_events(shard, key, BLOB_BRANCH, 1, prefix)
    if not is_as_it_was(shard, run, run.key, state) or _is_over(lost):
        return None
    name = name_of(key)
    context = shard.context(key.namespace_id)
    context.now = shard.current_runs.begins_at(name, context)
    t = Transition.from_base(machine.encoded(base), context)
    given: list[LedgerLine] = []
    machine.begin_reset_run(
        t,
        base=state,
        request=ResetWorkflowExecutionRequest(reason=RESET_REASON),
        later=parse_events(events[finish_id - 1 :]),
        start_request_id=shard.ids.uuid(),
        post_reset=lambda t: given.extend(append_lines(t, lines, schedules_task=False)),
    )
    old = shard.begin(run, context)
    old.note(CloseNote(old.state.parent_told, key.run_id))
    for line in lines:
        old.note(InboxNote(line.key, InboxItem(given_to=key.run_id)))
    await shard.commit((run, old), *_end(shard, lost, run), (None, t))
    return given



# --- a run that lost its workflow id -----------------------------------------------------------------------------------


async def end_the_loser(shard: Shard, loser: Run) -> list[LedgerLine]:
    """An open run that is not the current one of its workflow id: ended, with the reason, and what it was told goes to that one.

    Raises Poison, CallerError, StoreError.
    """
    while loser.state.is_open and not loser.is_evicted and not loser.state.is_deleted and may_write(shard.regions, loser.state):
        name, state = name_of(loser.key), loser.state
        await shard.current(*name)
        winner = shard.current_runs.who_beats(loser)
        if winner is None:
            return []
        events = await shard.events(loser, 1, state.next_event_id - 1)
        if loser.state is not state or not _still_beats(shard, winner, loser):
            continue
        lost = Lost(state, 1, events, loser)
        if not winner.state.is_deleted:
            ledger = await settle_loss(shard, winner.key, lost)
            if ledger or not may_write(shard.regions, winner.state):
                return ledger
            continue  # something has changed meanwhile
        if await _end_after_deleted(shard, lost, winner):
            return await _replicas(shard).losses.of_run(state)
    return []


async def _end_after_deleted(shard: Shard, lost: Lost, deleted: Run) -> bool:
    """The run that has the place of the loser is deleted, so none can be told: it waits in the loser's own inbox."""
    loser, replicas = lost.run, _replicas(shard)
    assert loser is not None
    key = deleted.key
    closed = RunState(key.namespace_id, key.workflow_id, key.run_id, status=Status.TERMINATED)
    lines = salvage(closed, lost.state, common_event_id=0, common_transition=0, loser_events=lost.events)
    await replicas.losses.write(lines)
    wanted = [line for line in lines if line.outcome in REAPPLIED]
    if wanted:
        await replicas.inboxes.holders.note(loser.key)
    if _is_over(lost) or not _still_beats(shard, deleted, loser):
        return False
    ((_, t),) = changes = _end(shard, lost, deleted)
    for line in wanted:
        t.note(InboxNote(line.key, InboxItem(encode_line(line))))
    await shard.commit(*changes)
    return True


def _still_beats(shard: Shard, winner: Run, loser: Run) -> bool:
    now = shard.current_runs.who_beats(loser)
    return now is not None and now.key == winner.key and now.state.is_deleted == winner.state.is_deleted


def _replicas(shard: Shard) -> Replicas:
    assert shard.replicas is not None, "a shard that knows of no other regions was told of one"
    return shard.replicas
