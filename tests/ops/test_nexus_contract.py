"""Contracts: what is read, what is refused with its place, and that no text at all breaks the reader."""

from __future__ import annotations

import textwrap
from pathlib import Path

import nexusrpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.contract import WrongContract, parse_contract, schema_name, split_description, with_contract
from ops.demo_nexus import services

CONTRACTS = Path(services.__file__).parent / "contracts"
GOOD = """
nexusrpc: 1.0.0
services:
  pay:
    description: Money.
    operations:
      charge: {description: Takes it., input: {$ref: "#/types/Charge"}, output: {type: string}}
      ping:
types:
  Charge:
    type: object
    required: [cents]
    properties: {cents: {type: integer, minimum: 1}, parts: {type: array, items: {$ref: "#/types/Charge"}}}
"""


def problems_of(text: str) -> str:
    with pytest.raises(WrongContract) as raised:
        parse_contract(textwrap.dedent(text))
    return "; ".join(raised.value.problems)


def test_a_contract_says_what_a_service_offers() -> None:
    contract = parse_contract(GOOD)
    charge, ping = contract.find("pay", "charge"), contract.find("pay", "ping")
    assert charge is not None and ping is not None and contract.find("pay", "other") is None
    assert (schema_name(charge.input), schema_name(charge.output), schema_name(ping.input)) == ("Charge", "string", "-")
    assert contract.problems(charge.input, {"cents": 1, "parts": [{"cents": 2}]}) == []
    assert contract.problems(charge.input, {"cents": 1, "parts": [{"cents": 0}]})[0].startswith("parts.0.cents: 0 is less")
    assert contract.problems(charge.input, {}) == ["value: 'cents' is a required property"]
    assert contract.problems(ping.input, object()) == [], "nothing is said of it"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[]", "not a mapping"),
        ("services: {}", "the version"),
        ("nexusrpc: 2.0.0", "the version"),
        ("{nexusrpc: 1.0.0, service: {}}", "unknown: service"),
        ("{nexusrpc: 1.0.0, services: {a: {}}}", "services.a.operations: must be"),
        ("{nexusrpc: 1.0.0, services: {a: {operations: {b: {in: 1}}}}}", "services.a.operations.b: unknown: in"),
        ("{nexusrpc: 1.0.0, services: {a: {operations: {b: {input: {type: strong}}}}}}", "b.input: type: 'strong' is not"),
        ("{nexusrpc: 1.0.0, services: {a: {operations: {b: {input: 7}}}}}", "b.input: not a JSON Schema"),
        ("{nexusrpc: 1.0.0, types: {A: {$ref: '#/types/B'}}}", "no such type"),
        ("{nexusrpc: 1.0.0, types: {A: {$ref: 'http://127.0.0.1/x'}}}", "no such type"),
        ("{nexusrpc: 1.0.0, types: {A: {pattern: '('}}}", "types.A: pattern: '(' is not a 'regex'"),
        ("{nexusrpc: 1.0.0, types: {A: {const: 2026-01-01}}}", "dates: put them into quotes"),
        ("{nexusrpc: 1.0.0, types: {A: {const: 2026-99-01}}}", "not YAML"),
        ("{nexusrpc: 1.0.0, types: {A: {type: string}, A: {}}}", "A is there twice"),
        ("{nexusrpc: 1.0.0, types: {yes: {}}}", "a key is not a text"),
        ("{nexusrpc: 1.0.0, types: {? [a] : {}}}", "a key is not a text"),
        ("{nexusrpc: 1.0.0, types: {A: &a {}, B: *a}}", "aliases are not allowed"),
        ("{nexusrpc: 1.0.0, types: {A: " + "{not: " * 70 + "{}" + "}" * 70 + "}}", "too deeply"),
        ("{nexusrpc: 1.0.0, types: " + "[" * 9_000, "too deeply"),
        ("x" * 20_001, "longer than 20000 bytes"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, told: str) -> None:
    assert told in problems_of(text)


def test_a_type_without_end_and_one_that_is_hidden_are_problems_and_no_errors() -> None:
    endless = parse_contract("{nexusrpc: 1.0.0, types: {A: {$ref: '#/types/A'}}}")
    assert "have no end" in endless.problems({"$ref": "#/types/A"}, 1)[0]
    hidden = parse_contract("{nexusrpc: 1.0.0, types: {A: {properties: {const: {$ref: 'http://127.0.0.1:9/x'}}}}}")
    assert "does not have" in hidden.problems({"$ref": "#/types/A"}, {"const": 1})[0]


@given(st.one_of(st.text(max_size=300), st.binary(max_size=60).map(lambda data: GOOD + data.decode("latin-1"))))
def test_any_text_is_a_contract_or_is_refused(text: str) -> None:
    try:
        parse_contract(text)
    except WrongContract as error:
        assert error.problems


@given(st.text(max_size=200), st.sampled_from([GOOD, GOOD + "# ```\n", GOOD + "# ````` x\n"]))
def test_a_description_gives_back_the_contract_that_was_put_into_it(description: str, contract: str) -> None:
    told, before = split_description(description)
    if before:
        return
    back, text = split_description(with_contract(description, contract))
    assert text.strip() == contract.strip() and back == told


@pytest.mark.parametrize(
    ("file", "definition"),
    [
        ("orders", services.Orders),
        ("payments", services.Payments),
        ("shipping", services.Shipping),
        ("depot", services.Depot),
    ],
)
def test_the_demo_says_the_same_in_python_and_in_its_contracts(file: str, definition: type[object]) -> None:
    contract = parse_contract((CONTRACTS / f"{file}.nexusrpc.yaml").read_text())
    python = nexusrpc.get_service_definition(definition)
    assert python is not None and [one.name for one in contract.services] == [python.name]
    for name, operation in python.operation_definitions.items():
        said = contract.find(python.name, name)
        assert said is not None
        for schema, kind in ((said.input, operation.input_type), (said.output, operation.output_type)):
            assert kind is not None and schema_name(schema) == kind.__name__
            assert list(contract.types[kind.__name__]["properties"]) == list(kind.__dataclass_fields__)
    assert len(contract.services[0].operations) == len(python.operation_definitions)
