"""A paused owner (SIGSTOP): nothing of it runs, nothing of it is lost, others' time goes on."""

from __future__ import annotations

import asyncio

from chaos.sim.loop import owned_by, running_loop, simulate


def test_a_paused_owner_stands_still_and_goes_on_where_it_was() -> None:
    seen: list[tuple[str, float]] = []

    async def ticks(name: str) -> None:
        for _ in range(6):
            await asyncio.sleep(1)
            seen.append((name, running_loop().time()))

    async def main() -> None:
        loop = running_loop()
        with owned_by("n#1"):
            node = asyncio.create_task(ticks("node"))
        other = asyncio.create_task(ticks("other"))
        await asyncio.sleep(2.5)
        loop.pause("n#1")
        assert loop.is_paused("n#1")
        await other
        assert [at for name, at in seen if name == "node"] == [1, 2]
        loop.resume("n#1")
        await node
        assert [at for name, at in seen if name == "node"] == [1, 2, 6, 7, 8, 9]

    simulate(main())


def test_what_came_from_outside_is_heard_before_overdue_timers() -> None:
    heard: list[str] = []

    async def main() -> None:
        loop = running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        async def waits() -> None:
            try:
                async with asyncio.timeout(1):
                    heard.append(await answer)
            except TimeoutError:
                heard.append("timed out")

        with owned_by("n#1"):
            node = asyncio.create_task(waits())
        await asyncio.sleep(0.5)
        loop.pause("n#1")
        await asyncio.sleep(2)
        answer.set_result("answered while it stood still")
        await asyncio.sleep(2)
        loop.resume("n#1")
        await node

    simulate(main())
    assert heard == ["answered while it stood still"]


def test_a_paused_owner_can_be_killed_and_never_runs_again() -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = running_loop()
        with owned_by("n#1"):
            job = asyncio.create_task(asyncio.sleep(1))
            job.add_done_callback(lambda _: seen.append("done"))
        await asyncio.sleep(0)
        loop.pause("n#1")
        await asyncio.sleep(2)
        loop.kill("n#1")
        loop.resume("n#1")
        await asyncio.sleep(2)

    simulate(main())
    assert seen == []
