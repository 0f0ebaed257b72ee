"""One open run per id, and linearizable starts: exact on small cases, each planted violation is found."""

from __future__ import annotations

import itertools
import random
import time

from temporalio.api.enums.v1 import EventType as E

from chaos.checkers.histories import RunHistory
from chaos.checkers.ledger import Act, Conflict, Ledger, Outcome, Reuse
from chaos.checkers.linear import starts_are_linearizable
from chaos.checkers.open_runs import counts_agree, one_open_run_per_id
from tests.chaos.planted import History, start

TERMINATED = E.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED
FAILED = E.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED


def run(
    number: int, at: float, lasts: float | None = 1.0, ends: E.ValueType = E.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED
) -> RunHistory:
    history = History("w", f"r{number}", at, f"tok-start-a-{number}")
    return (history.close(ends, lasts) if lasts is not None else history).done()


def explained(acts: list[Act], *runs: RunHistory) -> bool:
    return starts_are_linearizable(Ledger(acts), runs) == []


def test_lives_that_follow_each_other_pass() -> None:
    assert one_open_run_per_id([run(2, 1.0), run(1, 0.0), run(3, 2.0, None)]) == []


def test_two_open_runs_at_once_are_found() -> None:
    assert "closed 500000000 ns after r2" in one_open_run_per_id([run(1, 0.0), run(2, 0.5)])[0].text
    assert one_open_run_per_id([run(1, 0.0), run(2, 0.9)], tolerance_ns=100_000_000) == []


def test_a_forgotten_open_run_is_found() -> None:
    assert "still open" in one_open_run_per_id([run(1, 0.0, None), run(2, 5.0)])[0].text


def test_a_list_that_misses_repeats_or_mistakes_a_run_is_found() -> None:
    runs = [run(1, 0.0), run(2, 2.0, None)]
    right = [("w", "r1", False), ("w", "r2", True)]
    assert counts_agree(runs, right) == []
    wrong = [right[:1], [*right, right[0]], [*right, ("w", "r3", True)], [right[0], ("w", "r2", False)]]
    assert [found[0].text for found in (counts_agree(runs, listed) for listed in wrong)] == [
        "has a history but is not listed",
        "listed twice",
        "is listed but has no history",
        "is listed as closed, its history says otherwise",
    ]


def test_one_wins_and_the_others_are_refused() -> None:
    acts = [start(f"tok-start-a-{n}", "r1", 0, 1, Outcome.ACKED if n == 1 else Outcome.REFUSED, n == 1) for n in range(1, 6)]
    assert explained(acts, run(1, 0.5))


def test_two_winners_over_one_open_run_are_found() -> None:
    acts = [start("tok-start-a-1", "r1"), start("tok-start-a-2", "r2")]
    assert not explained(acts, run(1, 0.0, None), run(2, 0.05, None))
    assert explained(acts, run(1, 0.0, 0.01), run(2, 0.05, None))


def test_a_refusal_before_anything_was_started_is_found() -> None:
    early = start("tok-start-a-2", "r1", 0.0, 0.1, Outcome.REFUSED, False)
    assert not explained([early, start("tok-start-a-1", "r1", 0.2, 0.3)], run(1, 0.25))
    assert explained([early, start("tok-start-a-1", "r1", 0.05, 0.3)], run(1, 0.1))


def test_a_refusal_by_a_run_that_was_already_replaced_is_found() -> None:
    first = start("tok-start-a-1", "r1", 0.0, 0.1)
    second = start("tok-start-a-2", "r2", 0.2, 0.3)
    late = start("tok-start-a-3", "r1", 0.4, 0.5, Outcome.REFUSED, False)
    assert not explained([first, second, late], run(1, 0.05, 0.1), run(2, 0.25, None))
    late.begun_ns = second.begun_ns
    assert explained([first, second, late], run(1, 0.05, 0.1), run(2, 0.25, None))


def test_attaching_needs_an_open_run_and_its_policy() -> None:
    first = start("tok-start-a-1", "r1")
    attached = start("tok-start-a-2", "r1", 0.2, 0.3, started=False, conflict=Conflict.USE_EXISTING)
    assert explained([first, attached], run(1, 0.0))
    attached.conflict = Conflict.FAIL
    assert not explained([first, attached], run(1, 0.0))


def test_replacing_an_open_run_needs_the_policy_and_its_termination() -> None:
    second = start("tok-start-a-2", "r2", 0.2, 0.3, conflict=Conflict.TERMINATE_EXISTING, reuse=Reuse.FAILED_ONLY)
    acts = [start("tok-start-a-1", "r1"), second]
    assert explained(acts, run(1, 0.0, 0.25, TERMINATED), run(2, 0.25))
    assert not explained(acts, run(1, 0.0, 0.25), run(2, 0.25))


def test_the_reuse_policies_bind() -> None:
    second = start("tok-start-a-2", "r2", 0.2, 0.3, reuse=Reuse.FAILED_ONLY)
    acts = [start("tok-start-a-1", "r1"), second]
    assert explained(acts, run(1, 0.0, 0.1, FAILED), run(2, 0.25))
    assert not explained(acts, run(1, 0.0, 0.1), run(2, 0.25))
    second.reuse = Reuse.REJECT_DUPLICATE
    assert not explained(acts, run(1, 0.0, 0.1, FAILED), run(2, 0.25))
    refused = start(
        "tok-start-a-3", "r1", 0.2, 0.3, Outcome.REFUSED, False, reuse=Reuse.ALLOW_DUPLICATE, conflict=Conflict.USE_EXISTING
    )
    assert not explained([acts[0], refused], run(1, 0.0, 0.1))


def test_a_start_whose_answer_was_lost_still_counts() -> None:
    lost = start("tok-start-a-1", "", 0.0, 0.1, Outcome.UNKNOWN)
    refused = start("tok-start-a-2", "r1", 0.5, 0.6, Outcome.REFUSED, False)
    assert explained([lost, refused], run(1, 0.3))
    assert not explained([refused], run(1, 0.3)), "nobody asked for the run that refused"


def test_a_retried_start_may_begin_a_run_and_later_be_refused_by_another() -> None:
    retried = start("tok-start-a-1", "r2", 0.0, 3.0, Outcome.REFUSED, False, attempts=3)
    other = start("tok-start-a-2", "r2", 1.0, 1.5)
    assert explained([retried, other], run(1, 0.1, 0.2), run(2, 1.2))


def test_a_successor_takes_the_place_of_its_predecessor() -> None:
    first = History("w", "r1", 0.0, "tok-start-a-1").close(E.EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW).done()
    second = History("w", "r2", 1.0, continued_from="r1").done()
    attached = start("tok-start-a-2", "r2", 2.0, 2.1, started=False, conflict=Conflict.USE_EXISTING)
    assert explained([start("tok-start-a-1", "r1"), attached], first, second)
    stale = start("tok-start-a-3", "r1", 3.0, 3.1, started=False, conflict=Conflict.USE_EXISTING)
    assert not explained([start("tok-start-a-1", "r1"), attached, stale], first, second)


def register_run(seed: int, clients: int, starts: int) -> tuple[list[Act], list[RunHistory]]:
    """A correct register under concurrent clients: what it answers is linearizable by construction."""
    stream = random.Random(seed)
    free_at = [0.0] * clients
    moments = []
    for number in range(1, starts + 1):
        client = stream.randrange(clients)
        begun = free_at[client] + stream.random() / 10
        took = stream.random()
        free_at[client] = begun + took
        moments.append((begun + took * stream.random(), begun, begun + took, number))
    acts: list[Act] = []
    runs: list[RunHistory] = []
    current, closes_at = 0, 0.0
    for moment, begun, ended, number in sorted(moments):
        if current == 0 or moment >= closes_at:
            current, lasts = number, stream.random() / 5
            closes_at = moment + lasts
            runs.append(run(number, moment, lasts))
            acts.append(start(f"tok-start-a-{number}", f"r{number}", begun, ended))
        elif stream.random() < 0.5:
            acts.append(start(f"tok-start-a-{number}", f"r{current}", begun, ended, Outcome.REFUSED, False))
        else:
            attached = start(f"tok-start-a-{number}", f"r{current}", begun, ended, started=False, conflict=Conflict.USE_EXISTING)
            acts.append(attached)
    return acts, runs


def test_a_correct_register_is_always_explained_and_fast() -> None:
    begun = time.monotonic()
    for seed in range(20):
        acts, runs = register_run(seed, clients=10, starts=150)
        assert explained(acts, *runs), seed
    assert time.monotonic() - begun < 10


def test_the_search_agrees_with_trying_every_order() -> None:
    """Random small cases, many of them wrong, against brute force over all permutations."""
    verdicts = []
    for seed in range(150):
        acts, runs = register_run(seed, clients=3, starts=6)
        stream = random.Random(-seed - 1)
        for victim in [act for act in acts if not act.started and stream.random() < 0.5]:
            victim.run_id = stream.choice(runs).run_id
            shift = round(stream.uniform(-2, 2) * 1e9)
            victim.begun_ns, victim.ended_ns = victim.begun_ns + shift, victim.ended_ns + shift
        verdict = explained(acts, *runs)
        assert verdict == brute_force(acts, runs), seed
        verdicts.append(verdict)
    assert 20 < sum(verdicts) < 130, "both verdicts must occur often"


def brute_force(acts: list[Act], runs: list[RunHistory]) -> bool:
    """Orders that respect real time, replayed with each run closing as late as it is needed."""
    for order in itertools.permutations(acts):
        if any(later.ended_ns < earlier.begun_ns for earlier, later in itertools.combinations(order, 2)):
            continue
        current, possible = "", True
        for one in order:
            if one.outcome == Outcome.ACKED and one.started:
                current = one.run_id  # every run of these cases closed, and all policies allow a duplicate
            elif one.run_id != current or not current:
                possible = False
                break
        if possible:
            return True
    return False
