"""What the documents say is true: words of make, links, commands and their options, generated files, what is built and not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.exceptions import ActivityError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from cluster.config import DAY_NS, MIB
from cluster.frontend.not_built import NOT_BUILT
from ops.docs import limits, machines
from ops.servers import OutlastServer

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {".venv", "build", ".git", "node_modules"}
FIRST_SCREEN_LINES = 40
ARCHITECTURE_LINES_MAX = 280
TEMPORAL = Path(os.environ.get("PEER_DIR", Path.home() / ".cache" / "outlast-peer")) / "bin" / "temporal"
PARTS_OF_A_RECORD = ["Context", "Decision", "Consequences", "Alternatives"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def make_words() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def documents() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.md")) if not SKIPPED & set(path.relative_to(ROOT).parts)]


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```(?:sh|shell|bash)\n(.*?)```", text, re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.split("#")[0].strip()]


def anchors(text: str) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_word_of_make_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert make_words(), "the Makefile's words were not found"
    assert {word for word in make_words() if f"make {word}" not in readme} == set()


def test_every_word_of_make_in_a_document_exists() -> None:
    used = set()
    for path in documents():
        text = path.read_text()
        inline = re.findall(r"`make ([a-z-]+)", text)
        in_blocks = [word for line in shell_lines(text) for word in re.findall(r"^make ([a-z-]+)", line)]
        used |= {(str(path.relative_to(ROOT)), word) for word in [*inline, *in_blocks]}
    assert used
    assert {(path, word) for path, word in used if word not in make_words()} == set()


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in LINK.findall(re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue  # another site; not for a test without a network
        path, _, anchor = target.partition("#")
        place = document.parent / path if path else document
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place.read_text())):
            broken.append(target)
    assert not broken


def test_the_first_screen_says_what_it_is_and_how_to_see_it() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:FIRST_SCREEN_LINES])
    commands = shell_lines(first)
    assert "make demo" in commands and "make test" in commands
    assert [line for line in commands if not re.match(r"make [a-z-]+", line)] == []


def test_every_option_of_outlast_in_the_documents_exists() -> None:
    """Options are taken from the program's own help, not from its source."""
    used = [line for path in documents() for line in shell_lines(path.read_text()) if re.match(r"(\.venv/bin/)?outlast ", line)]
    assert used, "the README shows how to start the server"
    for line in used:
        words = line.split()[1:]
        verbs = words[: next((at for at, word in enumerate(words) if not re.fullmatch("[a-z]+", word)), len(words))]
        outlast = Path(sys.executable).with_name("outlast")
        wide = {"COLUMNS": "200", "TERM": "dumb", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        told = subprocess.run([outlast, *verbs, "--help"], capture_output=True, text=True, check=True, env=wide).stdout
        assert set(re.findall(r"--[a-z-]+", line)) - set(re.findall(r"--[a-z-]+", told)) == set(), line


def test_every_word_of_make_starts_a_program_that_is_there() -> None:
    programs = sorted(set(re.findall(r"\$\(PY\) -m ([a-z.]+)", (ROOT / "Makefile").read_text())))
    assert programs
    broken = {}
    for program in programs:
        asked = subprocess.run([sys.executable, "-m", program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            broken[program] = asked.stderr.splitlines()[-1:]
    assert not broken


@pytest.mark.parametrize("generator", [machines, limits], ids=["machines", "limits"])
def test_a_generated_document_is_current(generator: Any) -> None:
    assert generator.FILE.read_text() == generator.render(), "run: .venv/bin/python -m ops.docs"


def test_a_limit_without_an_asker_is_told_as_not_enforced() -> None:
    """The generator sees both kinds; which limits are which is for the reader of limits.md."""
    assert limits.asked_by("id_bytes_max") and not limits.asked_by("no_such_limit")
    assert limits.shown("retention_max_ns", 90 * DAY_NS) == "90 d"
    assert limits.shown("link_bytes_max", 4_000) == "4,000 bytes" and limits.shown("x_bytes_max", 2 * MIB) == "2 MiB"


def test_a_stranger_finds_every_file_of_the_server() -> None:
    """Each module is named in ARCHITECTURE.md or in the README of a folder above it (there, also as `sql_*.py`)."""
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    unnamed = []
    for path in sorted((ROOT / "cluster").rglob("*.py")):
        above = [folder / "README.md" for folder in path.parents if folder.is_relative_to(ROOT / "cluster")]
        texts = [readme.read_text() for readme in above if readme.exists()]
        is_one_of_many = path.parent.name in ("api", "handlers")  # one file per call: the folder is named
        patterns = [name for text in texts for name in re.findall(r"`([\w*]+\.py)`", text)]
        named = f"({path.relative_to(ROOT)})" in architecture or any(path.match(pattern) for pattern in patterns)
        if path.name != "__init__.py" and not is_one_of_many and not named:
            unnamed.append(str(path.relative_to(ROOT)))
    assert not unnamed
    assert len(architecture.splitlines()) <= ARCHITECTURE_LINES_MAX


def test_a_file_that_a_readme_of_the_server_names_is_there() -> None:
    gone = []
    for readme in sorted((ROOT / "cluster").rglob("README.md")):
        for name in re.findall(r"`([\w*]+\.py)`", readme.read_text()):
            if not any(readme.parent.rglob(name)):
                gone.append(f"{readme.relative_to(ROOT)}: {name}")
    assert not gone


def test_every_machine_is_in_the_architecture() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("## The machines")[2].partition("\n## ")[0]
    assert {table.name for table in machines.tables() if table.name not in section} == set()


def test_a_decision_record_has_its_four_parts_and_its_line_in_the_index() -> None:
    folder = ROOT / "ops" / "docs" / "adr"
    records = sorted(folder.glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    index = (folder / "README.md").read_text()
    for record in records:
        text = record.read_text()
        assert f"({record.name})" in index, record.name
        assert text.startswith(f"# {record.name[:4]}: "), record.name
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == PARTS_OF_A_RECORD, record.name


def test_what_is_not_built_is_said_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text().lower()
    reasons = [reason.lower() for reason in NOT_BUILT.values() if "not built" in reason]
    subjects = {re.sub(r"^.*: | (is|are) not built$", "", reason) for reason in reasons}
    assert len(subjects) > 5
    assert {subject for subject in subjects if subject not in readme} == set()


# One line per verb of the temporal CLI that the README says works, in an order that leads a few workflows through their lives.
# A worker for the queue q runs beside it.
CLI_LINES = """
workflow start --type Waiting --task-queue q --workflow-id a
workflow start --type Waiting --task-queue q --workflow-id b
workflow query --workflow-id a --type count
workflow stack --workflow-id a
workflow metadata --workflow-id a
workflow update execute --workflow-id a --name add --input 5
workflow update start --workflow-id a --name add --input 5 --wait-for-stage accepted --update-id u
workflow update result --workflow-id a --update-id u
workflow update describe --workflow-id a --update-id u
workflow start-update-with-start --workflow-id c --type Waiting --task-queue q --update-name add --update-input 3 \
 --update-wait-for-stage accepted --id-conflict-policy UseExisting
workflow execute-update-with-start --workflow-id c --type Waiting --task-queue q --update-name add --update-input 3 \
 --id-conflict-policy UseExisting
activity pause --workflow-id a --activity-id held
activity unpause --workflow-id a --activity-id held
activity reset --workflow-id a --activity-id held
activity update-options --workflow-id a --activity-id held --start-to-close-timeout 500s
activity complete --workflow-id a --activity-id held --result 1
activity fail --workflow-id b --activity-id held --reason broke
workflow signal --workflow-id a --name finish
workflow result --workflow-id a
workflow show --workflow-id a
workflow trace --workflow-id a
workflow describe --workflow-id a
workflow list --query WorkflowType="Waiting"
workflow count --query ExecutionStatus="Running"
workflow reset --workflow-id a --event-id 4 --reason again
workflow update-options --workflow-id c --versioning-override-behavior auto_upgrade
workflow update execute --workflow-id c --name add --input 1
workflow cancel --workflow-id c
workflow terminate --workflow-id b --reason enough
workflow signal-with-start --workflow-id d --type Waiting --task-queue q --signal-name finish
workflow execute --workflow-id e --type Quick --task-queue q
workflow delete --workflow-id e
task-queue describe --task-queue q
task-queue config set --task-queue q --task-queue-type activity --queue-rps-limit 100 --queue-rps-limit-reason test
task-queue config get --task-queue q --task-queue-type activity
task-queue list-partition --task-queue q
worker list
operator namespace create -n other --retention 3d
operator namespace list
operator namespace describe -n other
operator namespace update -n other --description hello
operator namespace delete -n other --yes
operator search-attribute create --name City --type Keyword
operator search-attribute list
operator search-attribute remove --name City --yes
operator cluster describe
operator cluster health
operator cluster list
operator cluster system
"""


@activity.defn(name="held")
async def held() -> int:
    activity.raise_complete_async()


@workflow.defn(name="Quick")
class Quick:
    @workflow.run
    async def run(self) -> None:
        return None


@workflow.defn(name="Waiting")
class Waiting:
    """Holds one activity that nobody but the CLI completes, and ends when it is told to."""

    def __init__(self) -> None:
        self.is_done, self.sum = False, 0

    @workflow.run
    async def run(self) -> int:
        held_one = asyncio.create_task(self._hold())
        await workflow.wait_condition(lambda: self.is_done)
        held_one.cancel()
        return self.sum

    async def _hold(self) -> None:
        """However the activity ends, somebody has heard of it: else asyncio complains whenever the garbage is collected."""
        with contextlib.suppress(ActivityError):
            await workflow.execute_activity(held, activity_id="held", start_to_close_timeout=timedelta(minutes=5))

    @workflow.signal
    def finish(self) -> None:
        self.is_done = True

    @workflow.query
    def count(self) -> int:
        return self.sum

    @workflow.update
    def add(self, more: int) -> int:
        self.sum += more
        return self.sum


def test_a_verb_of_the_temporal_cli_that_the_readme_names_is_tried() -> None:
    """The README's paragraph and the lines above name the same verbs."""
    paragraph = (ROOT / "README.md").read_text().partition("The `temporal` CLI works for")[2].partition("\n\n")[0]
    lines = [line for line in CLI_LINES.splitlines() if line.strip()]
    for group in ("workflow", "activity", "task-queue", "operator cluster"):
        claimed = re.search(rf"`{group}`\s*\(([^)]*)\)", paragraph)
        assert claimed, group
        for verb in re.split(r",\s*", claimed.group(1)):
            assert any(line.startswith(f"{group} {verb} ") or line == f"{group} {verb}" for line in lines), f"{group} {verb}"


@pytest.mark.skipif(not TEMPORAL.exists(), reason="the temporal CLI is built by ../shared/peer/peer.sh install")
async def test_the_temporal_cli_works_as_the_readme_says(tmp_path: Path) -> None:
    server = OutlastServer(tmp_path / "server")
    await asyncio.to_thread(server.start)
    try:
        client = await Client.connect(server.address)
        runner = UnsandboxedWorkflowRunner()  # a test module cannot be imported anew inside the sandbox
        async with Worker(client, task_queue="q", workflows=[Waiting, Quick], activities=[held], workflow_runner=runner):
            for line in CLI_LINES.strip().splitlines():
                if line.startswith("activity"):
                    await until_held(client, line.split()[3])
                code, told = await temporal(server.address, line)
                assert code == 0, f"temporal {line}\n{told}"
    finally:
        await asyncio.to_thread(server.stop)


async def until_held(client: Client, workflow_id: str) -> None:
    """A call to an activity needs one that a worker has taken at least once."""
    async with asyncio.timeout(20):
        while True:
            pending = (await client.get_workflow_handle(workflow_id).describe()).raw_description.pending_activities
            if any(one.attempt >= 1 and one.HasField("last_started_time") for one in pending):
                return
            await asyncio.sleep(0.05)


async def temporal(address: str, line: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        TEMPORAL, *line.split(), "--address", address, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(errors="replace")
