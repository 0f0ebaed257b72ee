"""The virtual-time loop: honest asyncio programs run on it unchanged, and it never lets the machine in."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator

import pytest

from chaos.sim.loop import SimLoop, SimulationDeadlock, SimulationError, SimulationStuck, owned_by, running_loop, simulate
from chaos.sim.trace import Trace


def test_an_hour_of_sleep_takes_no_real_time() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    begun = time.monotonic()
    assert simulate(main()) == 3600.0
    assert time.monotonic() - begun < 1.0


def test_ready_callbacks_run_in_the_order_they_came() -> None:
    seen: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(50):
            loop.call_soon(seen.append, number)
        await asyncio.sleep(0)

    simulate(main())
    assert seen == list(range(50))


def test_timers_of_one_instant_go_off_in_the_order_they_were_set() -> None:
    seen: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(2, seen.append, "late")
        loop.call_later(1, seen.append, "first")
        loop.call_at(1.0, seen.append, "second")
        loop.call_later(1, seen.append, "cancelled").cancel()
        await asyncio.sleep(3)

    simulate(main())
    assert seen == ["first", "second", "late"]


async def _worker(queue: asyncio.Queue[int], done: list[int], lock: asyncio.Lock) -> None:
    while True:
        item = await queue.get()
        async with lock:
            await asyncio.sleep(0.5)
            done.append(item)
        queue.task_done()


def test_the_usual_tools_of_asyncio_work() -> None:
    async def main() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue()
        done: list[int] = []
        lock, event = asyncio.Lock(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(_worker(queue, done, lock)) for _ in range(3)]
            for item in range(6):
                queue.put_nowait(item)
            await queue.join()
            for worker in workers:
                worker.cancel()
        assert asyncio.get_running_loop().time() == 3.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await event.wait()
        assert asyncio.get_running_loop().time() == 8.0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(event.wait(), 1)
        asyncio.get_running_loop().call_later(1, event.set)
        assert await asyncio.gather(event.wait(), asyncio.sleep(0, 7)) == [True, 7]  # type: ignore[comparison-overlap]
        finished, pending = await asyncio.wait(
            [asyncio.ensure_future(asyncio.sleep(1)), asyncio.ensure_future(asyncio.sleep(9))], timeout=2
        )
        assert (len(finished), len(pending)) == (1, 1)
        return done

    assert simulate(main()) == list(range(6))


def test_a_job_keeps_the_context_it_was_created_in() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def read() -> str:
        await asyncio.sleep(1)
        return variable.get()

    async def main() -> tuple[str, str]:
        variable.set("before")
        job = asyncio.create_task(read())
        variable.set("after")
        return await job, variable.get()

    assert simulate(main()) == ("before", "after")


def test_asynchronous_generators_are_finished() -> None:
    closed: list[bool] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            for number in range(10):
                await asyncio.sleep(1)
                yield number
        finally:
            await asyncio.sleep(1)
            closed.append(True)

    async def main() -> None:
        async for number in numbers():
            if number == 2:
                break
        await asyncio.sleep(5)

    simulate(main())
    assert closed == [True]


def test_waiting_for_what_cannot_come_is_a_deadlock_that_names_the_waiters() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(stuck(), name="the-stuck-one")

    with pytest.raises(SimulationDeadlock, match=r"the-stuck-one waits at locks.py:\d+ wait"):
        simulate(main())


def test_a_loop_that_never_waits_is_found() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    loop = SimLoop.create()
    loop.CALLBACKS_PER_INSTANT_MAX = 1000
    with pytest.raises(SimulationStuck, match="without any time passing"):
        loop.run_until_complete(main())
    loop.close()


def test_virtual_time_has_a_limit() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(SimulationStuck, match="passed its limit"):
        simulate(main(), limit_s=100)


def test_an_exception_that_escapes_a_callback_fails_the_run() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    with pytest.raises(SimulationError, match="ZeroDivisionError"):
        simulate(main())


def test_a_job_failure_nobody_retrieves_fails_the_run() -> None:
    async def fail() -> None:
        raise LookupError("lost")

    async def main() -> None:
        _ = asyncio.create_task(fail())
        del _
        await asyncio.sleep(1)

    with pytest.raises(SimulationError, match="lost"):
        simulate(main())


@pytest.mark.parametrize("leave", ["to_thread", "executor", "connect", "subprocess", "signal", "reader"])
def test_whatever_leaves_the_simulation_is_refused(leave: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        if leave == "to_thread":
            await asyncio.to_thread(time.time)
        elif leave == "executor":
            await loop.run_in_executor(None, time.time)
        elif leave == "connect":
            await asyncio.open_connection("127.0.0.1", 1)
        elif leave == "subprocess":
            await asyncio.create_subprocess_exec("true")
        elif leave == "signal":
            loop.add_signal_handler(15, print)
        else:
            loop.add_reader(0, print)

    with pytest.raises(SimulationError, match="leave the simulation"):
        simulate(main())


def test_another_thread_cannot_wake_the_loop() -> None:
    caught: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def call() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except SimulationError as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        loop.call_soon_threadsafe(lambda: None)

    simulate(main())
    assert len(caught) == 1


def test_a_killed_owner_never_runs_again_not_even_its_finally() -> None:
    words: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(1)
            words.append("child lived on")
        finally:
            words.append("child's last words")

    async def node() -> None:
        asyncio.get_running_loop().call_later(2, words.append, "timer")
        try:
            await asyncio.create_task(child())
        except asyncio.CancelledError:
            words.append("cancelled")

    async def main() -> None:
        loop = running_loop()
        with owned_by("node-1#1"):
            asyncio.create_task(node(), name="node")  # noqa: RUF006
        await asyncio.sleep(0.5)
        assert next(job.get_name() for job in loop.pending_jobs() if job.owner == "node-1#1") == "node"
        assert loop.kill("node-1#1") == 2
        await asyncio.sleep(10)
        assert words == []
        with owned_by("node-1#2"):
            await asyncio.create_task(child())
        assert words == ["child lived on", "child's last words"]

    simulate(main())


def test_the_world_and_oneself_cannot_be_killed() -> None:
    async def main() -> None:
        with pytest.raises(SimulationError):
            running_loop().kill("")
        with owned_by("me"), pytest.raises(SimulationError):
            running_loop().kill("me")

    simulate(main())


def test_a_trace_takes_plain_values_only() -> None:
    with pytest.raises(TypeError, match="field is a set"):
        Trace().add("kind", field={1, 2})
    with pytest.raises(TypeError):
        Trace().add("kind", field=0.1)


_PROGRAM = """
import asyncio
from chaos.sim.loop import running_loop, simulate
from chaos.sim.rand import SimIds, Streams
from chaos.sim.trace import Trace

streams = Streams(7)

async def walker(name):
    loop, stream, ids = running_loop(), streams("walk." + name), SimIds(streams("ids"))
    for step in range(40):
        await asyncio.sleep(stream.random() / 10)
        loop.trace("step", walker=name, step=step, id=ids.uuid())

async def main():
    names = {"a", "b", "c", "d", "e"}
    async with asyncio.TaskGroup() as group:
        for name in sorted(names):
            group.create_task(walker(name))

trace = Trace()
simulate(main(), trace)
print(trace.digest(), trace.lines_count)
"""


def test_a_seed_has_one_trace_hash_whatever_the_hash_seed() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "4242")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].split()[1] == "200"
