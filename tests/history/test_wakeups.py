"""The heap of near wake-ups: in order, once, never too early, and no key stops another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from chaos.sim.loop import running_loop, simulate
from chaos.sim.rand import SimClock
from cluster.history.wakeups import Wakeups
from cluster.seams import SystemClock
from cluster.stores.base import RunKey

SECOND = 1_000_000_000


def key(name: str) -> RunKey:
    return RunKey("ns", name, name)


class Bench:
    def __init__(self) -> None:
        self.clock = SimClock(running_loop().now_ns)
        self.begun = self.clock.now_ns()
        self.woken: list[tuple[str, float]] = []
        self.wakeups = Wakeups(self.clock, self._wake)

    def _wake(self, key: RunKey, at: int) -> None:
        assert self.clock.now_ns() >= at, "too early"
        self.woken.append((key.run_id, round((self.clock.now_ns() - self.begun) / SECOND, 3)))

    def set(self, name: str, seconds: float) -> None:
        self.wakeups.set(key(name), self.begun + int(seconds * SECOND))


def play(story: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await story(Bench())

    simulate(run())


def test_keys_wake_once_in_the_order_of_their_times() -> None:
    async def story(bench: Bench) -> None:
        bench.set("late", 3)
        bench.set("early", 1)
        bench.set("past", -5)
        await asyncio.sleep(10)
        assert bench.woken == [("past", 0.0), ("early", 1.0), ("late", 3.0)]
        assert len(bench.wakeups) == 0

    play(story)


def test_a_later_word_overrides_an_earlier_one() -> None:
    async def story(bench: Bench) -> None:
        bench.set("sooner", 9)
        bench.set("sooner", 1)
        bench.set("later", 1)
        bench.set("later", 4)
        bench.set("gone", 2)
        bench.wakeups.set(key("gone"), 0)
        await asyncio.sleep(20)
        assert bench.woken == [("sooner", 1.0), ("later", 4.0)]

    play(story)


def test_one_key_that_fails_does_not_stop_the_time_of_the_others() -> None:
    async def story() -> None:  # on a real loop: the simulated one ends at the first exception that escapes
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        woken: list[str] = []
        all_woken = asyncio.Event()

        def wake(key: RunKey, at: int) -> None:
            woken.append(key.run_id)
            if len(woken) == 3:
                all_woken.set()
            if key.run_id == "poison":
                raise ValueError("poison")

        wakeups = Wakeups(SystemClock(), wake)
        now = SystemClock().now_ns()
        wakeups.set(key("poison"), now)
        wakeups.set(key("same moment"), now)
        wakeups.set(key("later"), now + 20_000_000)
        async with asyncio.timeout(10):
            await all_woken.wait()
        assert sorted(woken) == ["later", "poison", "same moment"]
        assert isinstance(reported[0]["exception"], ValueError)

    asyncio.run(story())


def test_overridden_times_do_not_pile_up() -> None:
    async def story(bench: Bench) -> None:
        for number in range(20_000):
            bench.set("busy", 10 + number / 1_000)
        assert len(bench.wakeups._heap) <= 1_100
        await asyncio.sleep(100)
        assert bench.woken == [("busy", 29.999)]

    play(story)


def test_nothing_wakes_after_the_close() -> None:
    async def story(bench: Bench) -> None:
        bench.set("a", 1)
        bench.wakeups.close()
        await asyncio.sleep(5)
        assert bench.woken == []

    play(story)
