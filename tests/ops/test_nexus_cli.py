"""`outlast nexus` as an operator uses it, against `outlast dev` and a handler that is plain HTTP."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from temporalio.api.nexus.v1 import Endpoint
from typer.testing import CliRunner, Result

from ops.cli.exit_codes import EXIT_CLUSTER, EXIT_FAILED, EXIT_OK, EXIT_USAGE
from ops.cli.nexus import app
from ops.cli.nexus_endpoints import EndpointWish, KnownEndpoint, Operator, Step, known_endpoint, plan, spec_of
from ops.cli.nexus_file import read_endpoints
from ops.region.reading import WrongSettings
from ops.servers import LoggedProcess, free_port
from sdk.nexus_http import OperationTable, handler_app
from tests.nexus_http.payments import PaymentsHandler

OUTLAST = str(Path(sys.executable).with_name("outlast"))
CONTRACT = """
nexusrpc: 1.0.0
services:
  pay/ments v1:
    operations:
      quote: {description: What it would cost., input: {type: integer}, output: {$ref: "#/types/Receipt"}}
      refuse: {input: {type: string}}
types:
  Receipt: {type: object, required: [number, amount]}
"""
ENDPOINTS = """
endpoints:
  - name: payments
    description: "Money of customers."
    target: {url: "URL"}
    contract: payments.nexusrpc.yaml
  - name: workers
    target: {namespace: payment, task_queue: desk}
"""


class Served:
    """`outlast dev`, and a payment team behind plain HTTP in a thread of this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.grpc, self.http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        ports = ["--port", self.grpc.split(":")[1], "--http-port", self.http.split(":")[1]]
        command = [OUTLAST, "dev", *ports, "--namespace", "payment"]
        self.server = LoggedProcess(command, directory / "dev.log", "Outlast ready", {"PYTHONUNBUFFERED": "1"})
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner, self.url = asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(20)
        self.server.wait_ready(60.0)

    async def _serve(self) -> tuple[web.AppRunner, str]:
        runner = web.AppRunner(handler_app([PaymentsHandler(OperationTable())]))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port := free_port())
        await site.start()
        return runner, f"http://127.0.0.1:{port}"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self.server.end(signal.SIGTERM)
        assert self.server.process.returncode == EXIT_OK

    def endpoints(self, text: str) -> Path:
        (self.directory / "payments.nexusrpc.yaml").write_text(CONTRACT)
        path = self.directory / "endpoints.yaml"
        path.write_text(text.replace("URL", self.url))
        return path

    def of_endpoints(self, *words: str) -> Result:
        return nexus(*words, "--grpc-address", self.grpc)

    def json(self, *words: str) -> Any:
        done = self.of_endpoints(*words, "--output", "json")
        assert done.exit_code == EXIT_OK, done.stdout + done.stderr
        return json.loads(done.stdout)

    def call(self, operation: str, *words: str) -> Result:
        return nexus("call", "payments", operation, *words, "--address", self.http)


def nexus(*words: str, sent: str = "") -> Result:
    """In this process: a command of its own takes a second to start."""
    return CliRunner().invoke(app, list(words), input=sent, catch_exceptions=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = Served(tmp_path_factory.mktemp("nexus"))
    yield running
    running.close()


def test_a_file_is_applied_once_and_its_second_time_changes_nothing(served: Served) -> None:
    file = served.endpoints(ENDPOINTS)
    before = served.of_endpoints("diff", str(file))
    assert before.exit_code == EXIT_FAILED and "create" in before.stdout
    assert [one["action"] for one in served.json("apply", str(file))] == ["created", "created"]
    again = served.json("apply", str(file))
    assert [(one["action"], one["version"]) for one in again] == [("as it is", 1), ("as it is", 1)]
    assert served.of_endpoints("diff", str(file)).exit_code == EXIT_OK
    file = served.endpoints(ENDPOINTS.replace("of customers", "of all").split("  - name: workers")[0])
    changed = served.of_endpoints("diff", str(file))
    assert changed.exit_code == EXIT_FAILED and "payments: description: +Money of all." in changed.stdout
    steps = {one["name"]: (one["action"], one["version"]) for one in served.json("apply", str(file))}
    assert steps == {"payments": ("updated", 2), "workers": ("not in the file", 1)}


def test_the_catalogue_shows_what_contracts_say_and_finds_words_in_them(served: Served) -> None:
    served.json("apply", str(served.endpoints(ENDPOINTS)))
    lines = served.of_endpoints("catalog").stdout.splitlines()
    assert lines[1].split()[0] == "payments" and "pay/ments v1/quote   integer  Receipt  What it would cost." in lines[1]
    assert "workers" in lines[3] and "(no contract)" in lines[3]
    found = served.json("catalog", "--search", "RECEIPT")
    assert [(one["name"], [each["operation"] for each in one["operations"]]) for one in found] == [("payments", ["quote"])]
    assert found[0]["types"]["Receipt"]["required"] == ["number", "amount"]
    assert served.json("catalog", "--search", "payment/desk")[0]["name"] == "workers"
    assert "nothing has 'xyz'" in served.of_endpoints("catalog", "--search", "xyz").stdout


def test_an_operation_is_called_from_a_shell_and_its_end_is_the_exit_code(served: Served) -> None:
    served.json("apply", str(served.endpoints(ENDPOINTS)))
    done = served.call("pay%2Fments v1/quote", "--input", "7")
    assert (done.exit_code, json.loads(done.stdout)) == (EXIT_OK, {"number": "quote", "amount": 7}), done.stderr
    contract = str(served.directory / "payments.nexusrpc.yaml")
    assert served.call("pay%2Fments v1/quote", "-i", "7", "--contract", contract, "--output", "json").exit_code == EXIT_OK
    refused = served.call("pay%2Fments v1/quote", "--input", '"seven"', "--contract", contract)
    assert refused.exit_code == EXIT_USAGE and "the input is not as" in refused.stderr
    failed = served.call("pay%2Fments v1/refuse", "--input", '"failed"')
    assert failed.exit_code == EXIT_FAILED and "the operation failed" in failed.stderr, failed.stderr
    assert served.call("nobody/home").exit_code == EXIT_USAGE
    assert served.call("no-slash").exit_code == EXIT_USAGE
    assert served.call("a/b", "--input", "{").exit_code == EXIT_USAGE


def test_the_description_of_the_gateway_is_printed(served: Served) -> None:
    command = [OUTLAST, "nexus", "openapi", "--address", served.http]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (EXIT_OK, "") and json.loads(done.stdout)["openapi"] == "3.1.0"


def test_one_that_is_refused_does_not_keep_the_others_from_being_made(served: Served) -> None:
    nowhere = "  - name: zz-lost\n    target: {namespace: nobody, task_queue: q}\n"
    file = served.endpoints(f"endpoints:\n{nowhere}  - name: zz-made\n    target: {{namespace: payment, task_queue: q}}\n")
    done = served.of_endpoints("apply", str(file), "--output", "json")
    assert done.exit_code == EXIT_USAGE and "not all of" in done.stderr and "nobody" in done.stderr
    steps = {one["name"]: one["action"] for one in json.loads(done.stdout)}
    assert (steps["zz-lost"], steps["zz-made"]) == ("refused", "created")


def test_a_contract_that_another_tool_has_spoilt_is_shown_as_such(served: Served) -> None:
    wish = EndpointWish("zz-spoilt", "payment", "q", "", "told\n```nexusrpc\nservices: 7\n```\n")
    with Operator(served.grpc) as operator:
        operator.perform(Step("create", wish))
    done = served.of_endpoints("catalog", "--search", "zz-spoilt")
    assert done.exit_code == EXIT_OK and "(its contract cannot be read)" in done.stdout
    assert "zz-spoilt: nexusrpc: the version must be" in done.stdout


def test_nobody_there_is_told_and_has_its_exit_code() -> None:
    away = f"127.0.0.1:{free_port()}"
    for done in (
        nexus("catalog", "--grpc-address", away),
        nexus("openapi", "--address", away),
        nexus("call", "a", "b/c", "--address", away),
    ):
        assert done.exit_code == EXIT_CLUSTER and away in done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("endpoints: [{target: {}}]", "required field `name`"),
        ("endpoints: [{name: ab, target: {}, extra: 1}]", "unknown field `extra`"),
        ("endpoints: [{name: ab, target: {}}]", "ab: target namespace not set"),
        ("endpoints: [{name: 1x, target: {namespace: n, task_queue: q}}]", "must match the regex"),
        ("endpoints: [{name: ab, target: {url: 'ftp://x', namespace: n}}]", "either url, or"),
        ("endpoints: [{name: ab, target: {url: 'ftp://x'}}]", "invalid target URL scheme"),
        ("endpoints: [{name: ab, target: {url: 'http://x'}, policy: {}}]", "no call of this server sets one"),
        ("endpoints: [{name: ab, target: {url: 'http://x'}, contract: none.yaml}]", "ab: contract: "),
        ("endpoints: [{name: ab, target: {url: 'http://x'}, contract: wrong.yaml}]", "wrong.yaml: nexusrpc: the version"),
        ("endpoints: [{name: ab, target: {url: 'http://x'}}, {name: ab, target: {url: 'http://x'}}]", "ab: it is there twice"),
        ("endpoints: [{name: ab, target: {url: 'http://x'}, description: '" + "d" * 20_001 + "'}]", "exceeds limit of 20000"),
        ("endpoints: 7", "Expected `array`"),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_anybody_is_asked(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "file.yaml").write_text(text)
    (tmp_path / "wrong.yaml").write_text("services: {}")
    with pytest.raises(WrongSettings) as raised:
        read_endpoints(tmp_path / "file.yaml")
    assert told in str(raised.value) and str(tmp_path) in str(raised.value)


def test_the_plan_names_what_differs_and_leaves_others_alone() -> None:
    wish = EndpointWish("ab", "n", "q", "", "one\ntwo")
    there = KnownEndpoint("id", 3, EndpointWish("ab", "n", "other", "", "one\nthree"))
    other = KnownEndpoint("id2", 1, EndpointWish("cd", url="http://x"))
    steps = plan([wish, EndpointWish("new", "n", "q")], [there, other])
    assert [step.kind for step in steps] == ["update", "create", "unknown"]
    assert steps[0].differences == ("target: n/other -> n/q", "description: -three", "description: +two")
    kept = known_endpoint(Endpoint(id="id", version=4, spec=spec_of(wish)))
    assert [step.kind for step in plan([wish], [kept])] == ["none"]
