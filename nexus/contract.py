"""Contracts: what an endpoint offers, as a `.nexusrpc.yaml` (version 1 of nexus-rpc-gen's definition files) says it.

    nexusrpc: 1.0.0
    services: {NAME: {description, operations: {NAME: {description, input: SCHEMA, output: SCHEMA}}}}
    types:    {NAME: SCHEMA}        schemas are JSON Schema of draft 7, and name each other by "#/types/NAME"

An endpoint carries its contract in its description, which is Markdown, as a block of code of the language `nexusrpc`:
every region has it with the endpoint, and people read it in any UI. All of this is pure: nothing that a contract names is
fetched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import msgspec
import yaml
from referencing import Registry
from referencing.exceptions import Unresolvable

BLOCK = "nexusrpc"
CONTRACT_BYTES_MAX = 20_000  # limit.endpointDescriptionMaxSize: it has to fit into a description
SCHEMA_DEPTH_MAX = 64  # of one schema; a recursive type is one that names itself
_VERSION = re.compile(r"1\.\d+\.\d+")
_FENCED = re.compile(rf"^(`{{3,}}){BLOCK}[ \t]*\n(.*?)^\1[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_KEYS = {"": {"nexusrpc", "services", "types"}, "service": {"description", "operations"},
         "operation": {"description", "input", "output"}}  # fmt: skip


class WrongContract(Exception):
    """problems: all that is wrong, each with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ContractOperation(msgspec.Struct, frozen=True):
    """input, output: schemas; None: nothing is said of it."""

    name: str
    description: str = ""
    input: Any = None
    output: Any = None


class ContractService(msgspec.Struct, frozen=True):
    name: str
    operations: tuple[ContractOperation, ...]
    description: str = ""


class Contract(msgspec.Struct, frozen=True):
    services: tuple[ContractService, ...]
    types: dict[str, Any] = {}

    def find(self, service: str, operation: str) -> ContractOperation | None:
        for one in self.services:
            if one.name == service:
                return next((each for each in one.operations if each.name == operation), None)
        return None

    def problems(self, schema: Any, value: Any) -> list[str]:
        """What is wrong with a value, each with its place in it. schema: an operation's input or output."""
        if schema is None:
            return []
        # With a registry of its own, which fetches nothing.
        validator = jsonschema.Draft7Validator(_rooted(schema, self.types), registry=Registry())
        try:
            found = sorted(validator.iter_errors(value), key=lambda error: [str(step) for step in error.absolute_path])
        except RecursionError:
            return ["value: the contract's types have no end, or the value is nested too deeply"]
        except Unresolvable as error:
            return [f"value: the contract names a type that it does not have: {error}"]
        return [f"{_place(error.absolute_path)}: {error.message[:300]}" for error in found]


def parse_contract(text: str) -> Contract:
    """Raises WrongContract."""
    if len(text.encode("utf-8", "replace")) > CONTRACT_BYTES_MAX:
        raise WrongContract([f"it is longer than {CONTRACT_BYTES_MAX} bytes"])
    try:
        document = yaml.load(text, _Loader)
        problems = list(_document_problems(document))
    except yaml.YAMLError as error:
        raise WrongContract([f"not YAML: {' '.join(str(error).split())[:300]}"]) from None
    except ValueError as error:  # of a number or a date that is none
        raise WrongContract([f"not YAML: {str(error)[:300]}"]) from None
    except RecursionError:
        raise WrongContract(["it is nested too deeply"]) from None
    if problems:
        raise WrongContract(problems)
    services = tuple(
        ContractService(
            name,
            tuple(
                ContractOperation(each, (how or {}).get("description", ""), (how or {}).get("input"), (how or {}).get("output"))
                for each, how in service["operations"].items()
            ),
            service.get("description", ""),
        )
        for name, service in (document.get("services") or {}).items()
    )
    return Contract(services, document.get("types") or {})


class _Loader(yaml.SafeLoader):
    """Without aliases, by which a few lines can become millions, and without a key that is there twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG:
                raise yaml.constructor.ConstructorError(None, None, "a key is not a text: put it into quotes", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# --- what may be wrong ---------------------------------------------------------------------------------------------------
def _document_problems(document: Any) -> Iterator[str]:
    if not isinstance(document, dict):
        yield "it is not a mapping"
        return
    version = document.get("nexusrpc")
    if not isinstance(version, str) or _VERSION.fullmatch(version) is None:
        yield "nexusrpc: the version must be 1.x.y, as 1.0.0"
    yield from _unknown_keys(document, "", "")
    types, services = document.get("types") or {}, document.get("services") or {}
    if not isinstance(types, dict) or not isinstance(services, dict):
        yield "services, types: must be mappings"
        return
    for name, schema in types.items():
        yield from _schema_problems(schema, types, f"types.{name}")
    for name, service in services.items():
        yield from _service_problems(name, service, types)


def _service_problems(name: Any, service: Any, types: dict[str, Any]) -> Iterator[str]:
    place = f"services.{name}"
    if not isinstance(name, str) or not name:
        yield f"{place}: its name is not a text"
    operations = service.get("operations") if isinstance(service, dict) else None
    if not isinstance(operations, dict):
        yield f"{place}.operations: must be a mapping"
        return
    yield from _unknown_keys(service, place, "service")
    for each, how in operations.items():
        at = f"{place}.operations.{each}"
        if not isinstance(each, str) or not each:
            yield f"{at}: its name is not a text"
        if how is None:
            continue
        if not isinstance(how, dict):
            yield f"{at}: must be a mapping"
            continue
        yield from _unknown_keys(how, at, "operation")
        for side in ("input", "output"):
            if side in how:
                yield from _schema_problems(how[side], types, f"{at}.{side}")


def _unknown_keys(found: Mapping[Any, Any], place: str, kind: str) -> Iterator[str]:
    if unknown := sorted(str(key) for key in found if key not in _KEYS[kind]):
        yield f"{place or 'the file'}: unknown: {', '.join(unknown)}"
    if not isinstance(found.get("description", ""), str):
        yield f"{place}.description: must be a text"


def _schema_problems(schema: Any, types: dict[str, Any], place: str) -> Iterator[str]:
    if not isinstance(schema, dict | bool):
        yield f"{place}: not a JSON Schema"
        return
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError):
        yield f"{place}: it has values that JSON does not have, such as dates: put them into quotes"
        return
    try:
        jsonschema.Draft7Validator.check_schema(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
    except jsonschema.SchemaError as error:
        yield f"{place}: {_place(error.absolute_path)}: {error.message[:300]}"
        return
    for name in _references(schema, place, 0):
        if not name.startswith("#/types/") or name.removeprefix("#/types/") not in types:
            yield f"{place}: $ref {name}: there is no such type, as #/types/NAME"


def _references(schema: Any, place: str, depth: int) -> Iterator[str]:
    if depth > SCHEMA_DEPTH_MAX:
        raise WrongContract([f"{place}: it is nested too deeply"])
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for key, inner in schema.items():
            if key not in ("const", "enum", "default", "examples"):
                yield from _references(inner, place, depth + 1)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _references(inner, place, depth + 1)


def _rooted(schema: Any, types: dict[str, Any]) -> dict[str, Any]:
    """A schema beside the types that it names. In draft 7 nothing may stand beside a $ref, so it becomes a part."""
    return {"types": types, "allOf": [schema]}


def _place(path: Any) -> str:
    return ".".join(str(step) for step in path) or "value"


# --- in a description ----------------------------------------------------------------------------------------------------
def with_contract(description: str, contract: str) -> str:
    """Markdown that says both."""
    longest = max((len(run) for run in re.findall("`+", contract)), default=0)
    fence = "`" * max(3, longest + 1)
    told = f"{description.rstrip()}\n\n" if description.strip() else ""
    return f"{told}{fence}{BLOCK}\n{contract.rstrip()}\n{fence}\n"


def split_description(text: str) -> tuple[str, str]:
    """(what is told to people, the contract's text; "" = it has none)."""
    found = _FENCED.search(text)
    if found is None:
        return text.strip(), ""
    return (text[: found.start()] + text[found.end() :]).strip(), found.group(2)


def schema_name(schema: Any) -> str:
    """For a column: the type's name, or what kind of value it is; "-": nothing is said."""
    if schema is None:
        return "-"
    if isinstance(schema, bool):
        return "any" if schema else "nothing"
    if isinstance(schema.get("$ref"), str):
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    kind = schema.get("type", schema.get("title", "any"))
    return "|".join(map(str, kind)) if isinstance(kind, list) else str(kind)
