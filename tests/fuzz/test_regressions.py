"""Every input that once broke the server is sent again, in process, and the world must be whole afterwards."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import findings
from tests.fuzz.stage import Stage, fault_of
from tests.fuzz.targets import WAITING, in_process

FILES = sorted(findings.FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
async def test_what_once_broke_the_server_does_so_no_more(path: Path, tmp_path: Path) -> None:
    async with in_process(tmp_path) as target:
        stage = Stage(target)
        await stage.set_up()
        names = dict(stage.pools.names)
        for number, (name, encode) in enumerate(findings.read(path), 1):
            timeout_s, patience_s = (3.0, 0.3) if name in WAITING else (0.0, 0.0)
            answer = await target.send(name, encode(names), timeout_s, patience_s)
            assert fault_of(name, answer, WAITING) == ""
            names |= findings.answer_names(number, name, answer.data)
            stage.check_troubles()
        await stage.check_whole(random.Random(1))
    async with in_process(tmp_path) as target:  # and a node that starts on what was stored is whole, too
        stage.target = target
        await stage.check_whole(random.Random(2))


async def test_a_finding_is_replayed_as_it_was_sent(tmp_path: Path) -> None:
    """Names stand for what differs between servers; what is no message is kept as bytes."""
    from temporalio.api.workflowservice import v1 as api

    request = api.SignalWorkflowExecutionRequest(namespace="fuzz", signal_name="\x00é", identity="@@")
    request.workflow_execution.run_id = "run-here"
    request.input.payloads.add(data=b"\xff\x00", metadata={"encoding": b"x"})
    request.links.add()
    respond = api.RespondWorkflowTaskFailedRequest(task_token=b"\x01token\xff", cause=99)  # type: ignore[arg-type]
    respond.failure.application_failure_info.next_retry_delay.seconds = 2**63 - 1
    polled = api.PollWorkflowTaskQueueResponse(task_token=b"\x01token\xff")
    steps = [
        ("SignalWorkflowExecution", request.SerializeToString(), b""),
        ("PollWorkflowTaskQueue", b"", polled.SerializeToString()),
        ("RespondWorkflowTaskFailed", respond.SerializeToString(), b""),
        ("StartWorkflowExecution", b"\x0a\x01\xff\x07", b""),
    ]
    path = findings.write(tmp_path, "title", "why\n\nmore", steps, {"run:fuzz:open": "run-here"})
    assert "run-here" not in path.read_text() and "@answer:2:task_token" in path.read_text()
    names: dict[str, str | bytes] = {"run:fuzz:open": "run-here", "answer:2:task_token": b"\x01token\xff"}
    assert [(name, encode(names)) for name, encode in findings.read(path)] == [(name, data) for name, data, _ in steps]
    there = findings.read(path)[0][1]({"run:fuzz:open": "run-there"})
    assert api.SignalWorkflowExecutionRequest.FromString(there).workflow_execution.run_id == "run-there"
