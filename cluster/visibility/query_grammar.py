"""The text of a list filter, read by an LALR grammar into conditions whose attributes are not looked up yet.

The language is the WHERE clause (and GROUP BY, ORDER BY) of the real server, which reads it with a MySQL parser: single and
double quotes make strings, back quotes make names, words of the language ignore case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken, v_args

from cluster.visibility.expressions import And, Not, Or
from cluster.visibility.operands import Literal, LiteralKind, QueryError, number_literal

# A text that nests deeper is refused while it is read, before anything recurses over it.
NESTING_MAX = 100

_GRAMMAR = r"""
    start: [either] [group_by] [order_by]
    either: both (_OR both)*
    both: single (_AND single)*
    ?single: _NOT single                    -> negation
        | "(" either ")"                    -> nested
        | condition
    ?condition: name COMPARISON value                       -> compare
        | name NEGATION? _BETWEEN value _AND value          -> between
        | name NEGATION? _IN "(" value ("," value)* ")"     -> in_list
        | name NEGATION? (STARTS_WITH | LIKE) value         -> word_test
        | name _IS NEGATION? _NULL                          -> is_null
    group_by: _GROUP _BY name ("," name)*
    order_by: _ORDER _BY ordering ("," ordering)*
    ordering: name (ASC | DESC)?
    name: WORD | QUOTED_NAME
    value: STRING | SIGN? NUMBER | TRUE | FALSE | WORD | QUOTED_NAME

    _AND.2: /and\b/i
    _OR.2: /or\b/i
    _NOT.2: /not\b/i
    NEGATION.2: /not\b/i
    _BETWEEN.2: /between\b/i
    _IN.2: /in\b/i
    STARTS_WITH.2: /starts_with\b/i
    LIKE.2: /r?like\b/i
    _IS.2: /is\b/i
    _NULL.2: /null\b/i
    _GROUP.2: /group\b/i
    _ORDER.2: /order\b/i
    _BY.2: /by\b/i
    ASC.2: /asc\b/i
    DESC.2: /desc\b/i
    TRUE.2: /true\b/i
    FALSE.2: /false\b/i
    COMPARISON: "=" | "!=" | "<>" | "<=" | ">=" | "<" | ">"
    SIGN: "-" | "+"
    NUMBER: /([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?(?!\w)/
    STRING: /'(?:[^'\\]|\'\'|\\.)*'|"(?:[^"\\]|""|\\.)*"/s
    QUOTED_NAME: /`[^`]+`/
    WORD: /[^\W\d][\w.$-]*/
    %ignore /\s+/
"""

# What the reader of an error would write for a terminal of the grammar.
_SHOWN = {
    "_AND": "AND", "_OR": "OR", "_NOT": "NOT", "NEGATION": "NOT", "_BETWEEN": "BETWEEN", "_IN": "IN", "LIKE": "",
    "STARTS_WITH": "STARTS_WITH", "_IS": "IS", "_NULL": "NULL", "_GROUP": "GROUP BY", "_ORDER": "ORDER BY", "_BY": "BY",
    "ASC": "ASC", "DESC": "DESC", "TRUE": "a value", "FALSE": "a value", "SIGN": "a value", "NUMBER": "a value",
    "STRING": "a value", "QUOTED_NAME": "", "WORD": "a name", "COMPARISON": "a comparison", "LPAR": "(", "RPAR": ")",
    "COMMA": ",", "$END": "the end",
}  # fmt: skip

# Backslash escapes of MySQL strings, which the real server's parser reads.
_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}


@dataclass(frozen=True, slots=True)
class Untyped:
    """A condition as written, before its attribute is known."""

    name: str
    operator: str
    literals: tuple[Literal, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class _Node:
    """An untyped expression and how deep it nests."""

    depth: int
    expression: Any


def _deeper(node: _Node, expression: Any) -> _Node:
    if node.depth >= NESTING_MAX:
        raise QueryError(f"operation is not supported: expression nested deeper than {NESTING_MAX} levels")
    return _Node(node.depth + 1, expression)


def _unquoted(text: str) -> str:
    quote, inner = text[0], text[1:-1].replace(text[0] * 2, text[0])
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), inner, flags=re.DOTALL) if quote else inner


@v_args(inline=True)
class _Reader(Transformer[Token, Any]):
    """Callbacks of the parser: each rule's children are already read."""

    def start(self, where: _Node | None, group_by: list[str] | None, order_by: list[tuple[str, bool]] | None) -> Any:
        return (where.expression if where else None), group_by or [], order_by or []

    def either(self, *parts: _Node) -> _Node:
        return self._joined(Or, parts)

    def both(self, *parts: _Node) -> _Node:
        return self._joined(And, parts)

    @staticmethod
    def _joined(join: Any, parts: tuple[_Node, ...]) -> _Node:
        if len(parts) == 1:
            return parts[0]
        return _Node(max(part.depth for part in parts), join(tuple(part.expression for part in parts)))

    def negation(self, inner: _Node) -> _Node:
        return _deeper(inner, Not(inner.expression))

    def nested(self, inner: _Node) -> _Node:
        return _deeper(inner, inner.expression)

    def compare(self, name: str, operator: Token, value: Literal) -> _Node:
        written = "!=" if operator == "<>" else str(operator)
        return _Node(0, Untyped(name, written.removeprefix("!"), (value,), written == "!="))

    def between(self, name: str, *rest: Any) -> _Node:
        return _Node(0, Untyped(name, "between", rest[-2:], len(rest) == 3))

    def in_list(self, name: str, *rest: Any) -> _Node:
        values = tuple(value for value in rest if isinstance(value, Literal))
        return _Node(0, Untyped(name, "in", values, len(values) < len(rest)))

    def word_test(self, name: str, *rest: Any) -> _Node:
        return _Node(0, Untyped(name, str(rest[-2]).lower(), (rest[-1],), len(rest) == 3))

    def is_null(self, name: str, negation: Token | None = None) -> _Node:
        return _Node(0, Untyped(name, "is null", (), negation is not None))

    def group_by(self, *names: str) -> list[str]:
        return list(names)

    def order_by(self, *orderings: tuple[str, bool]) -> list[tuple[str, bool]]:
        return list(orderings)

    def ordering(self, name: str, direction: Token | None = None) -> tuple[str, bool]:
        return name, direction is not None and direction.type == "DESC"

    def name(self, token: Token) -> str:
        return str(token).strip("`")

    def value(self, *parts: Token) -> Literal:
        last = parts[-1]
        match last.type:
            case "STRING":
                return Literal(LiteralKind.STRING, _unquoted(str(last)))
            case "NUMBER":
                return number_literal("".join(parts))
            case "TRUE" | "FALSE":
                return Literal(LiteralKind.BOOL, last.type == "TRUE")
        return Literal(LiteralKind.NAME, str(last))


@cache
def _parser() -> Lark:
    """Built at the first query: it costs tens of milliseconds that a server's start need not pay."""
    return Lark(_GRAMMAR, parser="lalr", lexer="contextual", transformer=_Reader(), maybe_placeholders=True)


def _syntax_error(text: str, problem: UnexpectedInput) -> QueryError:
    names: set[str] = set()
    at = len(text)
    match problem:
        case UnexpectedToken():
            names = set(problem.accepts or problem.expected)
            at = len(text) if problem.token.type == "$END" else (problem.token.start_pos or 0)
        case UnexpectedCharacters():
            names, at = set(problem.allowed or ()), (problem.pos_in_stream or 0)
        case UnexpectedEOF():
            names = set(problem.expected)
    if "STRING" in names:
        names.discard("WORD")  # read as a value only to say that it wants quotes
    shown = sorted({_SHOWN[name] for name in names if _SHOWN.get(name)})
    near = text[at : at + 20].split(maxsplit=1)
    where = f" near '{''.join(char if char.isprintable() else '?' for char in near[0])}'" if near else ""
    return QueryError(
        f"malformed SQL query: syntax error at position {at + 1}{where}; expected {' or '.join(shown) or 'something else'}"
    )


def read_query(text: str) -> tuple[Any, list[str], list[tuple[str, bool]]]:
    """(where or None, names to group by, names to order by with `descending`). Raises QueryError."""
    try:
        # The embedded transformer makes the result what `_Reader.start` returns, which Lark's types cannot say.
        read: Any = _parser().parse(text)
    except UnexpectedInput as problem:
        raise _syntax_error(text, problem) from problem
    where, group_by, order_by = read
    return where, group_by, order_by
