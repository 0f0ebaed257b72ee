"""`python -m tests.nexus.other_sdks [LANGUAGE ...]`: every SDK calls every SDK's handlers through this server.

--peer ADDRESS   on a server that runs already (the real one), to see that the programs are right

Exits 1 if any pair fails; a language whose worker cannot be built fails, it is not left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from temporalio.api.nexus.v1 import EndpointSpec
from temporalio.api.operatorservice.v1 import CreateNexusEndpointRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from cluster.node import Node, NodeConfig
from tests.nexus.services import Backing, Call, Cancels, Handler

HERE = Path(__file__).parent
CACHE = Path.home() / ".cache" / "outlast-sdks"
READY_S, ANSWER_S = 90.0, 40.0
NAMESPACE = "default"


# --- building -----------------------------------------------------------------------------------------------------------------
def go() -> list[str]:
    program = CACHE / "go" / "worker"
    _run(["go", "build", "-o", str(program), "."], HERE / "go", CGO_ENABLED="0")
    return [str(program)]


def typescript() -> list[str]:
    folder = _copied("typescript")
    _run(["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"], folder)
    return ["node", str(folder / "main.js")]


def java() -> list[str]:
    folder = _copied("java")
    libraries, classes = folder / "libraries", folder / "classes"
    _run(["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={libraries}"], folder)
    _run(["javac", "-cp", f"{libraries}/*", "-d", str(classes), "src/main/java/Main.java"], folder)
    return ["java", "-Xmx256m", "-cp", f"{classes}:{libraries}/*", "Main"]


BUILDERS: dict[str, Callable[[], list[str]]] = {"go": go, "typescript": typescript, "java": java}


def _copied(name: str) -> Path:
    folder = CACHE / name
    shutil.copytree(HERE / name, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    return folder


def _run(command: list[str], folder: Path, **environment: str) -> None:
    began = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, env={**os.environ, **environment})
    print(f"  {command[0]:6} {time.monotonic() - began:6.1f} s", file=sys.stderr, flush=True)


# --- running ------------------------------------------------------------------------------------------------------------------
@asynccontextmanager
async def worker(language: str, command: list[str], client: Client, address: str, queue: str) -> AsyncIterator[None]:
    if language == "python":
        async with Worker(
            client,
            task_queue=queue,
            workflows=[Backing, Call, Cancels],
            nexus_service_handlers=[Handler()],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ):
            yield
        return
    log = CACHE / f"{language}.log"
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *command, address, NAMESPACE, queue, stdout=asyncio.subprocess.PIPE, stderr=output
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(READY_S):
                while b"ready" not in (line := await process.stdout.readline()):
                    if not line:
                        raise SystemExit(f"the {language} worker ended before it was ready: see {log}")
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


CASES = (
    ("Call", "echo", "bob", "hello bob"),
    ("Call", "run", "papers", "worked on papers"),
    ("Call", "refuse", "failed", "failure: bad luck"),
    ("Call", "refuse", "never", "failure: wrong"),
    ("Call", "run", "fail", "failure: it broke"),
    ("Cancels", "run", "wait", "cancelled"),
)


async def told(client: Client, caller: str, workflow: str, operation: str, input: str, endpoint: str, queue: str) -> str:
    arguments: list[object] = [operation, input, endpoint]
    if workflow == "Cancels" and caller == "python":
        arguments.insert(2, 0)  # the type of the cancellation: wait until it is over
    id = f"{caller}-{uuid.uuid4().hex[:8]}"
    try:
        handle = await client.start_workflow(workflow, args=arguments, id=id, task_queue=queue)
        return str(await asyncio.wait_for(handle.result(), ANSWER_S))
    except WorkflowFailureError as error:
        causes: list[str] = []
        cause: BaseException | None = error.cause
        while cause is not None:
            causes.append(str(cause))
            cause = getattr(cause, "cause", None) or cause.__cause__
        return "failure: " + " <- ".join(causes)
    except TimeoutError:
        return f"nothing within {ANSWER_S} s"


def _is_right(answer: str, wanted: str, caller: str) -> bool:
    if wanted.startswith("failure: "):
        return answer.startswith("failure: ") and wanted.removeprefix("failure: ") in answer
    return answer == wanted or (wanted == "cancelled" and caller == "python" and answer == "CancelledError")


async def run(languages: list[str], address: str) -> int:
    commands = {language: BUILDERS[language]() for language in languages if language != "python"}
    client = await Client.connect(address, namespace=NAMESPACE)
    token = uuid.uuid4().hex[:8]
    for language in languages:
        spec = EndpointSpec(name=f"{language}-{token}")
        spec.target.worker.namespace, spec.target.worker.task_queue = NAMESPACE, f"{language}-{token}"
        await client.operator_service.create_nexus_endpoint(CreateNexusEndpointRequest(spec=spec))
    await asyncio.sleep(2.5)  # the real server's parts learn of endpoints by and by
    wrong = 0
    async with contextlib.AsyncExitStack() as stack:
        for language in languages:
            await stack.enter_async_context(
                worker(language, commands.get(language, []), client, address, f"{language}-{token}")
            )
        for caller in languages:
            for handler in languages:
                for workflow, operation, input, wanted in CASES:
                    answer = await told(
                        client, caller, workflow, operation, input, f"{handler}-{token}", f"{caller}-{token}"
                    )
                    is_right = _is_right(answer, wanted, caller)
                    wrong += not is_right
                    mark = "ok" if is_right else f"WRONG: {answer}"
                    print(f"{caller:10} -> {handler:10} {workflow:7} {operation:6} {input:7} {mark}", flush=True)
    count = len(languages) ** 2 * len(CASES)
    print(f"{count - wrong} passed, {wrong} failed")
    return 1 if wrong else 0


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("languages", nargs="*", default=[])
    parser.add_argument("--peer", default="")
    options = parser.parse_args()
    languages = ["python", *(options.languages or BUILDERS)]
    CACHE.mkdir(parents=True, exist_ok=True)
    if options.peer:
        return await run(languages, options.peer)
    node = Node(NodeConfig(port=0, http_port=0))
    await node.start()
    try:
        return await run(languages, f"127.0.0.1:{node.port}")
    finally:
        await node.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
