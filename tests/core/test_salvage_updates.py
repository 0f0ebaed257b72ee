"""Updates of the branch that lost: given to the winner with their payload, once; the winner's own of the same id is kept."""

from __future__ import annotations

import pytest
from temporalio.api.failure.v1 import Failure
from temporalio.api.update.v1 import Outcome as UpdateOutcome

from cluster.core.ledger import Outcome, Source
from cluster.core.state import UpdateStage
from tests.core.build import Run, payloads
from tests.core.regions import append, begun, meet, outcome_of, part, parted
from tests.e2e import commands


def accept(run: Run, update_id: str, *, completes: bool = False) -> None:
    run.start_task()
    request = next(one for one in run.deliver() if one.protocol_instance_id == update_id)
    messages = [commands.accept(request)] + ([commands.respond(update_id, done())] if completes else [])
    run.answer(*[commands.message_command(one.id) for one in messages], messages=messages)


def done() -> UpdateOutcome:
    return UpdateOutcome(success=payloads("done"))


def test_an_accepted_update_of_the_loser_is_admitted_again_with_its_payload() -> None:
    one, two = parted(begun())
    one.update("u")
    accept(one, "u", completes=True)
    two.signal("longer")
    met = meet(one, two)
    assert outcome_of(met, "WorkflowExecutionUpdateAccepted") is Outcome.REAPPLY
    assert outcome_of(met, "WorkflowExecutionUpdateCompleted") is Outcome.ROLLED_BACK
    assert append(two, met.lines) == [True]
    admitted = two.last("WorkflowExecutionUpdateAdmitted")
    assert admitted.request.input.name == "change" and admitted.origin == 1
    assert two.state.updates["u"].stage == UpdateStage.ADMITTED
    assert outcome_of(meet(one, two), "WorkflowExecutionUpdateAccepted") is Outcome.DUPLICATE


def test_an_update_that_the_winner_refuses_is_not_admitted_a_third_time() -> None:
    one, two = parted(begun())
    one.update("u")
    accept(one, "u")
    two.signal("longer")
    met = meet(one, two)
    append(two, met.lines)
    two.task()  # its worker says nothing about the update: it is rejected
    assert "u" not in two.state.updates
    assert append(two, met.lines) == [False]
    assert outcome_of(meet(one, two), "WorkflowExecutionUpdateAccepted") is Outcome.DUPLICATE


@pytest.mark.parametrize("stage", ["admitted", "accepted", "completed"])
def test_of_two_updates_of_one_id_the_winners_is_kept(stage: str) -> None:
    one, two = parted(begun())
    for run in (one, two):
        run.update("u")
        if stage != "admitted":
            accept(run, "u", completes=stage == "completed")
    two.signal("longer")
    met = meet(one, two)
    assert met.winner is two and append(two, met.lines) == []
    about = [line.outcome for line in met.lines if "Update" in line.name]
    assert about and set(about) == {Outcome.DUPLICATE}


def test_an_update_that_was_accepted_before_the_fork_is_completed_by_the_winner() -> None:
    run = begun()
    run.update("u")
    accept(run, "u")
    one, two = parted(run)
    one.signal("s")
    one.start_task()
    response = commands.respond("u", done())
    one.answer(commands.message_command(response.id), messages=[response])
    two.signal("longer")
    met = meet(one, two)
    assert outcome_of(met, "WorkflowExecutionUpdateCompleted") is Outcome.ROLLED_BACK
    assert two.state.updates["u"].stage == UpdateStage.ACCEPTED


def test_an_update_that_was_admitted_before_the_fork_and_rejected_by_the_winner_stays_rejected() -> None:
    run = begun()
    run.update("before")
    one, two = parted(run)
    one.update("behind")
    two.start_task()
    request = two.deliver()[0]
    two.answer(messages=[commands.reject(request, Failure(message="no"))])
    two.signal("longer")
    met = meet(one, two)
    assert [line.name for line in met.lines if line.outcome is Outcome.REAPPLY] == ["WorkflowExecutionUpdateAdmitted"]
    append(two, met.lines)
    assert list(two.state.updates) == ["behind"]


def admitted_again(run: Run) -> Run:
    """Region three's branch, which was given an update of region one's."""
    one, three = part(run, 1), part(run, 3)
    one.update("u")
    three.signal("longer")
    append(three, meet(one, three).lines)
    return three


def test_an_update_that_was_given_to_a_loser_goes_on_to_the_winner() -> None:
    run = begun()
    three, twelve = admitted_again(run), part(run, 12)
    twelve.signal("longer")
    met = meet(three, twelve)
    assert outcome_of(met, "WorkflowExecutionUpdateAdmitted") is Outcome.REAPPLY
    append(twelve, met.lines)
    assert twelve.state.updates["u"].stage == UpdateStage.ADMITTED


def test_an_update_that_waits_in_a_losers_buffer_has_one_line() -> None:
    run = begun()
    one, three, twelve = part(run, 1), part(run, 3), part(run, 12)
    one.update("u")
    three.open_task()
    append(three, meet(one, three).lines)
    twelve.signal("longer")
    about = [line for line in meet(three, twelve).lines if "Update" in line.name]
    assert [(line.source, line.outcome) for line in about] == [(Source.BUFFERED, Outcome.REAPPLY)]


def test_an_update_that_the_loser_refused_is_refused() -> None:
    run = begun()
    refused, closed, twelve = admitted_again(run), admitted_again(run), part(run, 12)
    refused.task()
    assert "u" not in refused.state.updates
    closed.terminate()
    twelve.signal("longer")
    for loser in (refused, closed):
        met = meet(loser, twelve)
        assert met.winner is twelve and outcome_of(met, "WorkflowExecutionUpdateAdmitted") is Outcome.MERGED


def test_an_update_that_only_a_note_tells_of_ends_with_the_losers_close() -> None:
    one, two = parted(begun())
    one.update("u")
    one.terminate()
    two.signal("longer")
    assert outcome_of(meet(one, two), "WorkflowExecutionUpdateAdmitted") is Outcome.MERGED


def test_an_update_that_was_accepted_by_its_admission_is_brought_by_one_line() -> None:
    run = begun()
    three, twelve = admitted_again(run), part(run, 12)
    three.start_task()
    admitted = next(
        event for event in three.events() if event.HasField("workflow_execution_update_admitted_event_attributes")
    )
    message = commands.accept_admitted(admitted)
    three.answer(commands.message_command(message.id), messages=[message])
    twelve.signal("longer")
    met = meet(three, twelve)
    assert outcome_of(met, "WorkflowExecutionUpdateAdmitted") is Outcome.REAPPLY
    assert outcome_of(met, "WorkflowExecutionUpdateAccepted") is Outcome.MERGED
