"""Failing inputs as files: calls in protobuf's text form, one after another, replayed by test_regressions.py.

    # why it is here
    call: RespondWorkflowTaskCompleted
    task_token: "@token:fuzz:workflow"
    ...
    wire: StartWorkflowExecution
    CgRmdXp6...                                  (base64: not even a message)

What differs from one server to the next is written by name: `@run:fuzz:open` and `@token:fuzz:activity` are made by the stage,
`@answer:3:task_token` is from the answer to the third call of the file.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from cluster.frontend.methods import METHODS

FOLDER = Path(__file__).parent / "regressions"
# (call, encoded request, encoded answer or b"")
Step = tuple[str, bytes, bytes]
_ANSWERED = ("task_token", "run_id", "next_page_token")


def answer_names(number: int, name: str, data: bytes) -> dict[str, str | bytes]:
    """What later calls may take from this answer."""
    if not data:
        return {}
    message = METHODS[name].response.FromString(data)
    fields = message.DESCRIPTOR.fields_by_name
    return {f"answer:{number}:{field}": value for field in _ANSWERED if field in fields and (value := getattr(message, field))}


def exchange(message: Any, with_what: Callable[[str | bytes], str | bytes]) -> None:
    """Replaces every string and bytes value of a message, at any depth (map keys are left alone)."""
    for field, value in message.ListFields():
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        if is_map:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for item in value.values():
                    exchange(item, with_what)
        elif field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                exchange(item, with_what)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            if field.is_repeated:
                value[:] = [with_what(item) for item in value]
            else:
                setattr(message, field.name, with_what(value))


def write(folder: Path, title: str, why: str, steps: list[Step], names: Mapping[str, str | bytes]) -> Path:
    known = dict(names)
    lines = [f"# {line}" for text in why.splitlines()[-25:] for line in textwrap.wrap(text, 120) or [""]]
    for number, (name, data, answer) in enumerate(steps, 1):
        by_value = {value: key for key, value in known.items() if value}
        try:
            message = METHODS[name].request.FromString(data)
            exchange(message, lambda value, found=by_value: _named(value, found))  # type: ignore[misc]
            body = text_format.MessageToString(message, as_utf8=False)
            text_format.Parse(body, METHODS[name].request())
            lines += [f"call: {name}", body]
        except (DecodeError, text_format.ParseError):
            lines += [f"wire: {name}", base64.b64encode(data).decode()]
        known.update(answer_names(number, name, answer))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{title}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def _named(value: str | bytes, by_value: Mapping[str | bytes, str]) -> str | bytes:
    name = by_value.get(value)
    if name is None:
        return value
    return f"@{name}" if isinstance(value, str) else b"@" + name.encode()


def read(path: Path) -> list[tuple[str, Callable[[Mapping[str, str | bytes]], bytes]]]:
    """(call, what encodes its request once the names are known) in order."""
    steps: list[tuple[str, Callable[[Mapping[str, str | bytes]], bytes]]] = []
    kind, name, body = "", "", [""]
    for line in [*path.read_text().split("\n"), "call: "]:
        if line.startswith(("call: ", "wire: ")):
            if name:
                steps.append((name, _encoder(kind, name, "\n".join(body))))
            kind, _, name = line.partition(": ")
            body = []
        elif not line.startswith("#"):
            body.append(line)
    return steps


def _encoder(kind: str, name: str, body: str) -> Callable[[Mapping[str, str | bytes]], bytes]:
    if kind == "wire":
        raw = base64.b64decode(body)
        return lambda names: raw

    def encode(names: Mapping[str, str | bytes]) -> bytes:
        def value_of(value: str | bytes) -> str | bytes:
            text = value if isinstance(value, str) else value.decode("latin-1")
            found = names.get(text[1:]) if text.startswith("@") else None
            if found is None:
                return value
            if isinstance(value, str):
                return found if isinstance(found, str) else found.decode("latin-1")
            return found if isinstance(found, bytes) else found.encode()

        message = text_format.Parse(body, METHODS[name].request())
        exchange(message, value_of)
        data: bytes = message.SerializeToString()
        return data

    return encode
