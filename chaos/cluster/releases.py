"""The program of an earlier commit: its wheel, with the dependencies that its own lock file names, in an environment of its own.

`python -m chaos.cluster.releases --commit release-1 --into DIR` prints the path of the `outlast` program. Built once per commit:
what is there is used again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TAGS = "release-*"
CACHE = Path.home() / ".cache" / "outlast-releases"


class ReleaseFailed(Exception):
    """The commit is unknown, or its wheel cannot be built or installed; the message carries the tool's last words."""


def newest_release() -> str:
    """The newest tag `release-*` by the time of its commit, "" if there is none."""
    command = ["git", "tag", "--list", TAGS, "--sort=-creatordate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""


def commit_of(name: str) -> str:
    return _run(["git", "rev-parse", "--verify", f"{name}^{{commit}}"], ROOT).strip()


def program_of(name: str, into: Path = CACHE) -> Path:
    """The `outlast` of a tag or commit. Raises ReleaseFailed."""
    commit = commit_of(name)
    home = into / commit[:12]
    program = home / "venv" / "bin" / "outlast"
    done = home / ".complete"
    if done.exists() and program.exists():
        return program
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="outlast-release-") as folder:
        source = Path(folder) / "source"
        source.mkdir()
        archive = Path(folder) / "source.tar"
        _run(["git", "archive", "--format=tar", f"--output={archive}", commit], ROOT)
        with tarfile.open(archive) as packed:
            packed.extractall(source)  # our own commit: nothing in it points outside
        uv = _uv()
        _run([uv, "build", "--wheel", "--out-dir", str(home), str(source)], source)
        wanted = home / "requirements.txt"
        _run([uv, "export", "--frozen", "--no-dev", "--no-emit-project", "--output-file", str(wanted)], source)
        _run([uv, "venv", "--python", sys.executable, str(home / "venv")], source)
        wheel = next(home.glob("*.whl"))
        python = str(home / "venv" / "bin" / "python")
        _run([uv, "pip", "install", "--python", python, "--requirement", str(wanted), str(wheel)], source)
    if not program.exists():
        raise ReleaseFailed(f"{wheel.name} has no program `outlast`")
    done.touch()
    return program


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise ReleaseFailed("uv is needed to build a release: pip install uv")
    return found


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ReleaseFailed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    return done.stdout


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m chaos.cluster.releases", description=__doc__)
    parser.add_argument("--commit", default="", help="tag or commit; default: the newest tag release-*")
    parser.add_argument("--into", type=Path, default=CACHE)
    options = parser.parse_args(arguments)
    name = options.commit or newest_release()
    if not name:
        print(f"there is no tag {TAGS}", file=sys.stderr)
        return 2
    print(program_of(name, options.into))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
