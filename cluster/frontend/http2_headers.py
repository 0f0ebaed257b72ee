"""HPACK (RFC 7541): header blocks of HTTP/2, read in full and written in the plainest way that is allowed.

Reading: static and dynamic table, Huffman codes, size updates. A client sends the same few blocks over and over once its table
has filled, so what a block that changed no table means is remembered until the table changes.
Writing: literals that are never indexed. What a server says in headers is a few dozen bytes, and nothing then depends on the
order in which blocks leave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

TABLE_BYTES_MAX: Final = 4_096  # what a client may assume of us before it has read our settings
LIST_BYTES_MAX: Final = 64 * 1024  # of one block, decoded, each field with 32 bytes of overhead as RFC 7541 counts
KNOWN_BLOCKS_MAX: Final = 256
KNOWN_BLOCK_BYTES_MAX: Final = 1_024
FIELD_OVERHEAD_BYTES: Final = 32
INTEGER_MAX: Final = 1 << 28

Field = tuple[bytes, bytes]
T = TypeVar("T")

_STATIC_TEXT: Final = """:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate"""
STATIC: Final[tuple[Field, ...]] = tuple(
    (name, value) for name, _, value in (line.encode().partition(b" ") for line in _STATIC_TEXT.split("\n"))
)

# RFC 7541, appendix B. The code is canonical, so the lengths are all of it: symbols in order of (length, value) take consecutive
# codes. A letter for each symbol: "A" is 5 bits, "B" is 6 ... "Z" is 30; the last one is the end of a string.
_HUFFMAN_LENGTHS: Final = (
    "ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJI"
    "XPRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWVZ"
)
_END_OF_STRING: Final = 256


class HeadersFault(Exception):
    """The block cannot be read, and with it none after it: the connection ends."""


class HeadersTooLarge(Exception):
    """More than anybody needs; the connection ends, for reading on only to forget is what an attacker wants."""


# --- Huffman ------------------------------------------------------------------------------------------------------------------
# A step takes four bits: (state, nibble) -> (next state, symbols that ended). States are the inner nodes of the code's tree.
_Step = tuple[int, bytes]
_REFUSED: Final[_Step] = (-1, b"")


def _codes() -> dict[tuple[int, int], int]:
    """(length, code) -> symbol."""
    lengths = [ord(letter) - ord("A") + 5 for letter in _HUFFMAN_LENGTHS]
    codes: dict[tuple[int, int], int] = {}
    code = last_length = 0
    for symbol in sorted(range(len(lengths)), key=lambda symbol: (lengths[symbol], symbol)):
        code <<= lengths[symbol] - last_length
        last_length = lengths[symbol]
        codes[last_length, code] = symbol
        code += 1
    return codes


def _steps() -> tuple[list[list[_Step]], list[bool]]:
    """The steps of each state, and whether a string may end there: padding is less than a byte of ones."""
    codes = _codes()
    nodes: dict[tuple[int, int], int] = {(0, 0): 0}
    for length, code in codes:
        for shorter in range(1, length):
            nodes.setdefault((shorter, code >> (length - shorter)), len(nodes))
    steps: list[list[_Step]] = []
    may_end: list[bool] = []
    for length, code in nodes:
        may_end.append(length < 8 and code == (1 << length) - 1)
        row: list[_Step] = []
        for nibble in range(16):
            at, symbols = (length, code), bytearray()
            for bit in (8, 4, 2, 1):
                at = (at[0] + 1, at[1] << 1 | bool(nibble & bit))
                if (symbol := codes.get(at)) is not None:
                    at = (0, 0)
                    if symbol == _END_OF_STRING:
                        break
                    symbols.append(symbol)
            row.append((nodes[at], bytes(symbols)) if symbol != _END_OF_STRING else _REFUSED)
        steps.append(row)
    return steps, may_end


_STEPS, _MAY_END = _steps()


def unhuffman(data: bytes) -> bytes:
    """Raises HeadersFault."""
    state = 0
    found: list[bytes] = []
    for byte in data:
        state, symbols = _STEPS[state][byte >> 4]
        if state >= 0:
            found.append(symbols)
            state, symbols = _STEPS[state][byte & 15]
        if state < 0:
            raise HeadersFault("a string with its end coded inside")
        found.append(symbols)
    if not _MAY_END[state]:
        raise HeadersFault("wrong padding of a string")
    return b"".join(found)


# --- reading ------------------------------------------------------------------------------------------------------------------
def _integer(block: bytes, at: int, prefix_bits: int) -> tuple[int, int]:
    """(value, where the next thing begins). Raises HeadersFault, IndexError."""
    mask = (1 << prefix_bits) - 1
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 127) << shift
        if value > INTEGER_MAX:
            raise HeadersFault("a number without end")
        if byte < 128:
            return value, at
        shift += 7


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    is_huffman = block[at] & 128
    length, at = _integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise HeadersFault("a string beyond its block")
    text = block[at:end]
    return (unhuffman(text) if is_huffman else text), end


class HeaderDecoder(Generic[T]):
    """Of one direction of one connection. `make` turns the fields of a block into what the caller wants of them; equal blocks
    may get the same object."""

    def __init__(self, make: Callable[[list[Field]], T]) -> None:
        self._make = make
        self._table: deque[Field] = deque()
        self._table_bytes = 0
        self._table_bytes_max = TABLE_BYTES_MAX
        self._known: dict[bytes, T] = {}

    def decode(self, block: bytes) -> T:
        """Raises HeadersFault, HeadersTooLarge."""
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            fields, has_changed = self._fields(block)
        except IndexError:
            raise HeadersFault("a block that ends within a field") from None
        made = self._make(fields)
        if has_changed:
            self._known.clear()
        elif len(block) <= KNOWN_BLOCK_BYTES_MAX and len(self._known) < KNOWN_BLOCKS_MAX:
            self._known[block] = made
        return made

    def _fields(self, block: bytes) -> tuple[list[Field], bool]:
        """And whether the table is another one now."""
        at, end, size = 0, len(block), 0
        fields: list[Field] = []
        has_changed = False
        while at < end:
            first = block[at]
            if first & 128:
                index, at = _integer(block, at, 7)
                field = self._entry(index)
            elif first & 0xE0 == 0x20:
                table_bytes, at = _integer(block, at, 5)
                if fields or table_bytes > TABLE_BYTES_MAX:
                    raise HeadersFault("a table size that was not agreed")
                self._table_bytes_max = table_bytes
                self._evict(0)
                has_changed = True
                continue
            else:
                is_kept = first & 64
                index, at = _integer(block, at, 6 if is_kept else 4)
                name, at = (self._entry(index)[0], at) if index else _string(block, at)
                value, at = _string(block, at)
                field = (name, value)
                if is_kept:
                    self._add(field)
                    has_changed = True
            size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
            if size > LIST_BYTES_MAX:
                raise HeadersTooLarge
            fields.append(field)
        return fields, has_changed

    def _entry(self, index: int) -> Field:
        if 0 < index <= len(STATIC):
            return STATIC[index - 1]
        place = index - len(STATIC) - 1
        if not 0 <= place < len(self._table):
            raise HeadersFault("an index beyond the table")
        return self._table[place]

    def _add(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + FIELD_OVERHEAD_BYTES
        self._evict(size)
        if size <= self._table_bytes_max:
            self._table.appendleft(field)
            self._table_bytes += size

    def _evict(self, coming_bytes: int) -> None:
        while self._table and self._table_bytes + coming_bytes > self._table_bytes_max:
            name, value = self._table.pop()
            self._table_bytes -= len(name) + len(value) + FIELD_OVERHEAD_BYTES


# --- writing ------------------------------------------------------------------------------------------------------------------
def _length(length: int) -> bytes:
    if length < 127:
        return bytes((length,))
    rest, parts = length - 127, bytearray((127,))
    while rest >= 128:
        parts.append(rest & 127 | 128)
        rest >>= 7
    parts.append(rest)
    return bytes(parts)


def encode_headers(fields: Iterable[Field]) -> bytes:
    """Literals without indexing, names included."""
    parts: list[bytes] = []
    for name, value in fields:
        parts += (b"\0", _length(len(name)), name, _length(len(value)), value)
    return b"".join(parts)
