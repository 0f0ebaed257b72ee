"""The file of `outlast nexus apply` and `diff`: which endpoints there shall be. Whatever is wrong is told, all of it at once.

    endpoints:
      - name: payments
        description: The payment team's desk.          # Markdown; optional
        target: {namespace: payment, task_queue: desk}  # or {url: "https://..."}
        contract: payments.nexusrpc.yaml                # beside this file; optional, a description may have it inside
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from cluster.config import Limits
from cluster.nexus.endpoint_record import DESCRIPTION_BYTES_MAX, spec_issues
from nexus.contract import WrongContract, parse_contract, split_description, with_contract
from ops.cli.nexus_endpoints import EndpointWish, spec_of
from ops.region.reading import WrongSettings, read_file

NO_POLICY = "policy: no call of this server sets one (EndpointRegistry.set_policy is inside of it): take it out"


class Target(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str = ""
    task_queue: str = ""
    url: str = ""


class Row(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    target: Target
    description: str = ""
    contract: str = ""
    policy: Any = None


class EndpointsFile(msgspec.Struct, forbid_unknown_fields=True):
    endpoints: list[Row]


def read_endpoints(path: Path) -> list[EndpointWish]:
    """Raises WrongSettings."""
    try:
        rows = msgspec.convert(read_file(path), EndpointsFile).endpoints
    except msgspec.ValidationError as error:
        raise WrongSettings(f"{path}: {error}") from None
    problems: list[str] = []
    wishes = []
    for row in rows:
        found, description = _description(row, path.parent)
        wish = EndpointWish(row.name, row.target.namespace, row.target.task_queue, row.target.url, description)
        problems += [f"{path}: {row.name or '(no name)'}: {one}" for one in (*_row_problems(row, wish), *found)]
        wishes.append(wish)
    names = [row.name for row in rows]
    problems += [f"{path}: {name}: it is there twice" for name in sorted({one for one in names if names.count(one) > 1})]
    if problems:
        raise WrongSettings("\n".join(problems))
    return wishes


def _row_problems(row: Row, wish: EndpointWish) -> list[str]:
    problems = []
    if row.policy is not None:
        problems.append(NO_POLICY)
    if row.target.url and (row.target.namespace or row.target.task_queue):
        problems.append("target: either url, or namespace and task_queue")
    else:
        problems += spec_issues(spec_of(wish), Limits())
    return problems


def _description(row: Row, folder: Path) -> tuple[list[str], str]:
    """(problems, the description as it is kept)."""
    _, inside = split_description(row.description)
    if inside and row.contract:
        return ["contract: the description has one, too"], row.description
    text, place = inside, "description"
    if row.contract:
        place = row.contract
        try:
            text = (folder / row.contract).read_text()
        except (OSError, UnicodeDecodeError) as error:
            return [f"contract: {error}"], row.description
    if not text:
        return [], row.description
    try:
        parse_contract(text)
    except WrongContract as error:
        return [f"{place}: {problem}" for problem in error.problems], row.description
    kept = row.description if inside else with_contract(row.description, text)
    size = len(kept.encode())
    too_long = [f"description and contract have {size} bytes, at most {DESCRIPTION_BYTES_MAX} are kept"]
    return (too_long if size > DESCRIPTION_BYTES_MAX else []), kept
