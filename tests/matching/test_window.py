"""The window: order, deduplication, bounds."""

from __future__ import annotations

import math
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cluster.matching.limits import MatchingLimits
from cluster.matching.tasks import TaskHint
from cluster.matching.window import Offered, TaskWindow
from tests.matching.world import hint, key_of


def window_of(**limits: int) -> TaskWindow:
    return TaskWindow(MatchingLimits(**limits))


def drain(window: TaskWindow, now: float = 0.0) -> list[TaskHint]:
    taken = []
    while (entry := window.take(now)) is not None:
        window.started(entry)
        taken.append(entry.hint)
    return taken


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), max_size=60))
def test_priority_goes_first_then_age(tasks: list[tuple[int, int]]) -> None:
    window = window_of()
    for number, (priority, age) in enumerate(tasks):
        window.offer(hint(number, priority=priority, created_at=age))
    order = [(task.priority or 3, task.created_at) for task in drain(window)]
    assert order == sorted(order) and len(order) == len(tasks)


def test_fairness_keys_take_turns_by_their_weight() -> None:
    window = window_of()
    for number in range(3000):
        key, weight = (("big", 3.0), ("small", 1.0))[number % 2]
        window.offer(hint(number, fairness_key=key, fairness_weight=weight))
    first = Counter(task.fairness_key for task in drain(window)[:400])
    assert abs(first["big"] - 300) <= 2


def test_a_new_key_does_not_wait_behind_a_flood() -> None:
    window = window_of()
    for number in range(5000):
        window.offer(hint(number, fairness_key="flood"))
    for _ in range(1000):
        entry = window.take(0.0)
        assert entry is not None
        window.started(entry)
    window.offer(hint(9999, fairness_key="late"))
    assert "late" in [task.fairness_key for task in drain(window)[:2]]


def test_a_key_that_empties_often_gains_no_advantage() -> None:
    """One key always has many tasks, the other always exactly one: both get half."""
    window, served, number = window_of(), Counter[str](), 0
    for number in range(2000):
        window.offer(hint(number, fairness_key="many"))
    window.offer(hint(5000, fairness_key="one"))
    for step in range(1000):
        entry = window.take(0.0)
        assert entry is not None
        window.started(entry)
        served[entry.hint.fairness_key] += 1
        if entry.hint.fairness_key == "one":
            window.offer(hint(6000 + step, fairness_key="one"))
    assert abs(served["one"] - 500) <= 2


def test_weight_overrides_go_before_the_tasks_own_weight() -> None:
    window = window_of()
    window.configure(None, None, {"a": 4.0})
    for number in range(1000):
        window.offer(hint(number, fairness_key="ab"[number % 2], fairness_weight=1.0))
    first = Counter(task.fairness_key for task in drain(window)[:100])
    assert abs(first["a"] - 80) <= 2


def test_equal_offers_are_one_task_while_it_waits_and_while_it_is_in_flight() -> None:
    window = window_of()
    assert window.offer(hint(1)) is Offered.ADDED
    assert window.offer(hint(1)) is Offered.DUPLICATE
    entry = window.take(0.0)
    assert entry is not None
    assert window.offer(hint(1)) is Offered.DUPLICATE
    window.started(entry)
    assert window.take(0.0) is None and window.is_empty


def test_an_offer_during_a_start_that_says_gone_is_not_lost() -> None:
    window = window_of()
    window.offer(hint(1))
    entry = window.take(0.0)
    assert entry is not None
    window.offer(hint(1))
    window.gone(entry)
    again = window.take(0.0)
    assert again is entry
    window.gone(again)
    assert window.is_empty


def test_a_withdrawn_task_is_not_given_out_nor_put_back() -> None:
    window = window_of()
    for number in range(3):
        window.offer(hint(number))
    window.withdraw(hint(1))
    entry = window.take(0.0)
    assert entry is not None and entry.hint.workflow_id == "wf-0"
    window.withdraw(hint(0))
    window.put_back(entry)
    assert [task.workflow_id for task in drain(window)] == ["wf-2"]
    assert window.is_empty and window.waiting_count == 0 and not window.held


def test_a_task_that_was_put_back_keeps_its_place() -> None:
    window = window_of()
    for number in range(3):
        window.offer(hint(number))
    entry = window.take(0.0)
    assert entry is not None
    window.put_back(entry)
    assert [task.workflow_id for task in drain(window)] == ["wf-0", "wf-1", "wf-2"]


def test_a_delayed_task_waits_for_its_time() -> None:
    window = window_of()
    window.offer(hint(1))
    entry = window.take(0.0)
    assert entry is not None
    window.put_back(entry, 5.0)
    assert window.take(4.9) is None and window.next_at(4.9) == 5.0 and window.backlog_count() == 1
    assert window.take(5.0) is entry


def test_the_window_holds_its_bound_and_remembers_the_shards_of_the_rest() -> None:
    for count, beyond in ((9, 0), (10, 0), (11, 1)):
        window = window_of(window_hints_max=10, window_hints_low=2)
        outcomes = [window.offer(hint(number, shard=number % 2)) for number in range(count)]
        assert outcomes.count(Offered.BEYOND) == beyond
        assert window.waiting_count == min(count, 10) and window.backlog_count() == count
        assert bool(window.more) is (beyond > 0)


def test_a_full_window_makes_room_for_a_better_priority_and_for_a_starving_key() -> None:
    window = window_of(window_hints_max=10, window_hints_low=2)
    for number in range(10):
        window.offer(hint(number, fairness_key="flood"))
    assert window.offer(hint(50, priority=4)) is Offered.BEYOND
    assert window.offer(hint(51, fairness_key="other")) is Offered.ADDED
    assert window.offer(hint(52, priority=1)) is Offered.ADDED
    assert window.waiting_count == 10 and window.backlog_count() == 13
    order = [task.workflow_id for task in drain(window)]
    assert order[0] == "wf-52" and "wf-51" in order[:3] and "wf-0" in order


def test_a_shard_is_forgotten_only_after_a_full_answer_without_drops_meanwhile() -> None:
    window = window_of(window_hints_max=4, window_hints_low=1)
    tasks = [hint(number) for number in range(8)]
    for task in tasks:
        window.offer(task)
    drain(window)
    assert window.is_low()
    (ask,) = window.plan_asks()
    assert ask.limit == 4
    assert window.answer(ask, tasks[4:8]) and window.more, "four rows of four: there may be more"
    drain(window)
    (ask,) = window.plan_asks()
    for number in range(20, 25):
        window.offer(hint(number))
    assert window.answer(ask, []) is False and window.more, "a hint was dropped after the question"
    drain(window)
    (ask,) = window.plan_asks()
    assert window.answer(ask, [hint(24)]) and not window.more


def test_tasks_behind_stuck_ones_are_reached() -> None:
    window = window_of(window_hints_max=4, window_hints_low=1)
    tasks = [hint(number) for number in range(10)]
    for task in tasks:
        window.offer(task)
    for _ in range(2):
        stuck = window.take(0.0)
        assert stuck is not None
        window.put_back(stuck, 60.0)
    drain(window)
    assert window.is_low(), "stuck tasks are no supply"
    (ask,) = window.plan_asks()
    left = tasks[:2] + tasks[4:]
    assert window.answer(ask, left[: ask.limit]) and window.waiting_count == 2


def test_a_fairness_key_has_its_own_rate_and_the_others_go_on() -> None:
    window = window_of()
    window.configure(None, 2.0, {})
    for number in range(20):
        window.offer(hint(number, fairness_key="ab"[number % 2]))
    assert Counter(task.fairness_key for task in drain(window, 10.0)) == {"a": 2, "b": 2}
    assert window.next_at(10.0) == 10.5
    assert len(drain(window, 10.5)) == 2
    window.configure(None, None, {})
    assert len(drain(window, 10.5)) == 14


def test_no_key_passes_its_rate_by_emptying() -> None:
    window, served = window_of(), 0
    window.configure(None, 2.0, {})
    for step in range(100):
        window.offer(hint(step))
        served += len(drain(window, step / 100))
    assert served <= 4, "2 at once and 2 in the second"


def test_the_queue_rate_limits_all_and_nothing_is_ready_at_rate_zero() -> None:
    window = window_of()
    for number in range(10):
        window.offer(hint(number))
    window.configure(0.0, None, {})
    assert window.take(100.0) is None and window.next_at(100.0) == math.inf
    window.configure(4.0, None, {})
    assert len(drain(window, 100.0)) == 4


@given(st.integers(0, 2**32))
def test_counts_agree_with_the_contents_after_any_sequence(seed: int) -> None:
    """And the heaps of withdrawn entries stay bounded."""
    source = random.Random(seed)
    window = window_of(window_hints_max=30, window_hints_low=5, fairness_keys_retained_max=3)
    flying = []
    for _ in range(200):
        match source.randrange(6):
            case 0 | 1 | 2:
                number = source.randrange(60)
                window.offer(hint(number, shard=number % 3, priority=number % 6, fairness_key=str(number % 5)))
            case 3:
                number = source.randrange(60)
                window.withdraw(hint(number, shard=number % 3, priority=number % 6, fairness_key=str(number % 5)))
            case 4:
                if (entry := window.take(0.0)) is not None:
                    flying.append(entry)
            case _:
                if flying:
                    entry = flying.pop(source.randrange(len(flying)))
                    source.choice([window.started, window.gone, window.put_back])(entry)
        waiting = window.waiting_hints()
        assert len(waiting) == window.waiting_count + window.delayed_count == len({key_of(task) for task in waiting})
        assert sum(window.held.values()) == len(waiting) + len(flying)
        assert sum(window.waiting_by_priority().values()) == window.waiting_count
        assert window.oldest_created_at() == min((task.created_at for task in waiting), default=None)
    assert len(drain(window)) == len(waiting)


def test_many_keys_leave_no_more_than_the_retained_ones_behind() -> None:
    window = window_of(fairness_keys_retained_max=10)
    window.configure(None, 1.0, {})
    for number in range(1000):
        window.offer(hint(number, fairness_key=str(number)))
        entry = window.take(0.0)
        assert entry is not None
        window.started(entry)
    level = window.levels[3]
    assert level is not None
    assert len(level._retained) == 10 and not level._lanes
