"""Looks over the tree of an LMDB before liblmdb does, which trusts every number that it finds in a file.

A page number, a size or an offset that points elsewhere makes liblmdb read outside the file, run in circles or give up
by `abort`: each ends the process. Here every page that a lookup or a walk can reach is checked, level by level, many
pages at a time; the pages that hold nothing but the bytes of a large value are not read. Format: LMDB 0.9, 64 bits,
little endian; what each number means is in `lmdb.h` and `mdb.c` of its sources (structs MDB_meta, MDB_page, MDB_node).
"""

from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from search_space.errors import UserError

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]
Ints = npt.NDArray[np.int64]

MAX_VALUE_BYTES = 64 * 2**20
"""A record of a face set is smaller; its bytes are copied when it is read."""

MAX_DEPTH = 32  # liblmdb's stack of pages
MAGIC, VERSION = 0xBEEFC0DE, 1
NO_PAGE = 2**64 - 1
PAGE_SIZES = tuple(2**n for n in range(9, 16))
BRANCH, LEAF, META, DIRTY = 1, 2, 8, 16
PAGE_HEADER_BYTES, NODE_HEADER_BYTES, LINK_BYTES = 16, 8, 8
BIG_VALUE = 1
META_FLAGS = (0x0008, 0x4008)
"""Integer keys in the list of free pages, which every file has; and whether it is a single file."""

MAX_UNWRITTEN_PAGES = 2**20
"""Pages that were taken and freed again in one transaction may lie behind the end of the file."""

CHUNK_BYTES = 8 * 2**20

_META = np.dtype({
    "names": ["page_flags", "magic", "version", "page_size", "flags", "main", "last_page", "transaction"],
    "formats": ["<u2", "<u4", "<u4", "<u4", "<u2", [
        ("pad", "<u4"), ("flags", "<u2"), ("depth", "<u2"), ("branches", "<u8"), ("leaves", "<u8"),
        ("overflows", "<u8"), ("entries", "<u8"), ("root", "<u8"),
    ], "<u8", "<u8"],
    "offsets": [10, 16, 20, 40, 44, 88, 136, 144],
    "itemsize": 152,
})  # fmt: skip


class _Tree(NamedTuple):
    page_size: int
    root: int
    depth: int
    entries: int


def check_structure(file: Path) -> None:
    """Refuse an LMDB that liblmdb could not read safely; about 0.1 s per million keys once the pages are in memory.

    Args:
        file: a regular file that nobody writes to meanwhile.
    Raises:
        UserError: it is no LMDB of 64 bits, is damaged or cut off, or holds more than one plain database.
    """
    with open(file, "rb") as stream:
        head = stream.read(_META.itemsize)
        if len(head) < _META.itemsize:
            _refuse("a file too short for an LMDB")
        first = np.frombuffer(head, _META)[0]
        _check_meta(first)
        page_size = int(first["page_size"])
        whole = np.memmap(stream, np.uint8, "r")
    pages = whole[: len(whole) // page_size * page_size].reshape(-1, page_size)
    _check_tree(pages, _main_tree(pages))


def _check_meta(meta: np.void) -> None:
    if not meta["page_flags"] & META or meta["magic"] != MAGIC:
        _refuse("a file that is no LMDB")
    if meta["version"] != VERSION or meta["page_size"] not in PAGE_SIZES or meta["flags"] not in META_FLAGS:
        _refuse("an LMDB of another version or with unknown settings")


def _main_tree(pages: Bytes) -> _Tree:
    """The tree that the newer of the two meta pages names."""
    if len(pages) < 2:
        _refuse("an LMDB without its second page")
    metas = [pages[number, : _META.itemsize].view(_META)[0] for number in (0, 1)]
    for meta in metas:
        _check_meta(meta)
    if metas[0]["page_size"] != metas[1]["page_size"]:
        _refuse("an LMDB whose page size is not clear")
    meta = metas[int(metas[0]["transaction"] < metas[1]["transaction"])]
    main = meta["main"]
    if main["flags"]:
        _refuse("an LMDB of sorted duplicates, integer or reversed keys")
    if int(meta["last_page"]) >= len(pages) + MAX_UNWRITTEN_PAGES:
        _refuse_cut(int(meta["last_page"]), pages)
    return _Tree(pages.shape[1], int(main["root"]), int(main["depth"]), int(main["entries"]))


def _check_tree(pages: Bytes, tree: _Tree) -> None:
    """Every level of the tree from the root down, in which no page may come twice."""
    if tree.root == NO_PAGE:
        return _require_entries(0, tree)
    if not 1 <= tree.depth <= MAX_DEPTH:
        _refuse(f"a tree of depth {tree.depth}")
    level = np.array([tree.root], np.uint64)
    above = np.empty(0, np.int64)
    for _ in range(tree.depth - 1):
        numbers = _page_numbers(level, pages)
        above = _distinct(np.concatenate([above, numbers]))
        level = np.concatenate([_children(_nodes(pages, part, BRANCH)) for part in _parts(numbers, tree)])
    leaves = _distinct(_page_numbers(level, pages))
    found = sum(_check_values(_nodes(pages, part, LEAF), pages) for part in _parts(leaves, tree))
    return _require_entries(found, tree)


def _require_entries(found: int, tree: _Tree) -> None:
    if found != tree.entries:
        _refuse(f"{found:,} keys where the file says {tree.entries:,}")


def _parts(numbers: Ints, tree: _Tree) -> list[Ints]:
    step = CHUNK_BYTES // tree.page_size
    return [numbers[start : start + step] for start in range(0, len(numbers), step)]


def _page_numbers(links: npt.NDArray[np.uint64], pages: Bytes) -> Ints:
    """Page numbers of the file from those that it holds."""
    if len(links) > len(pages):
        _refuse("more links than pages")
    if int(links.max()) >= len(pages):
        _refuse_cut(int(links.max()), pages)
    if int(links.min()) < 2:
        _refuse("a link to a meta page")
    return links.astype(np.int64)


def _distinct(numbers: Ints) -> Ints:
    found = np.unique(numbers)
    if len(found) != len(numbers):
        _refuse("a page that is in the tree twice")
    return found


class _Nodes(NamedTuple):
    """The nodes of some pages, [n] each."""

    words: Words
    """[num_pages, page_size / 2] the pages."""

    row: Ints
    """Which of the pages a node is in."""

    at: Ints
    """Where it begins there, in words."""

    def word(self, number: int) -> Ints:
        """One of the four 16-bit numbers that a node begins with; what they are hangs on the kind of its page."""
        return self.words[self.row, self.at + number].astype(np.int64)


def _nodes(pages: Bytes, numbers: Ints, kind: int) -> _Nodes:
    """All nodes of pages that must be of one kind; each begins and its header ends inside its page."""
    words = pages[numbers].view("<u2")  # [num_pages, page_size / 2]
    page_size = pages.shape[1]
    flags, lower, upper = (words[:, i].astype(np.int64) for i in (5, 6, 7))
    num_keys = (lower - PAGE_HEADER_BYTES) // 2
    own_number = words[:, :4].copy().view("<u8")[:, 0]
    bad = (flags & ~DIRTY != kind) | (own_number != numbers.astype(np.uint64))
    bad |= (lower % 2 != 0) | (num_keys < (2 if kind == BRANCH else 1)) | (lower > upper) | (upper > page_size)
    if bad.any():
        _refuse(f"page {numbers[bad.argmax()]} damaged")
    row = np.repeat(np.arange(len(words)), num_keys)
    column = np.arange(len(row)) - np.repeat(np.cumsum(num_keys) - num_keys, num_keys)
    offset = words[row, PAGE_HEADER_BYTES // 2 + column].astype(np.int64)
    bad = (offset % 2 != 0) | (offset < upper[row]) | (offset + NODE_HEADER_BYTES > page_size)
    if bad.any():
        _refuse(f"page {numbers[row[bad.argmax()]]} damaged")
    return _Nodes(words, row, offset // 2)


def _children(nodes: _Nodes) -> npt.NDArray[np.uint64]:
    """The pages that branch nodes link to."""
    _require_inside(nodes, nodes.word(3))
    return (nodes.word(0) | nodes.word(1) << 16 | nodes.word(2) << 32).astype(np.uint64)


def _check_values(nodes: _Nodes, pages: Bytes) -> int:
    """Check the values of leaf nodes; how many there are."""
    size, flags, key_size = nodes.word(0) | nodes.word(1) << 16, nodes.word(2), nodes.word(3)
    if (flags & ~BIG_VALUE).any():
        _refuse("an LMDB with databases or duplicates inside the main one")
    if int(size.max()) > MAX_VALUE_BYTES:
        _refuse(f"a value of {int(size.max()):,} bytes, more than the {MAX_VALUE_BYTES:,} of any picture")
    big = flags == BIG_VALUE
    _require_inside(nodes, key_size + np.where(big, LINK_BYTES, size))
    if big.any():
        page_size = pages.shape[1]
        start = 2 * nodes.at[big] + NODE_HEADER_BYTES + key_size[big]
        columns = start[:, None] + np.arange(LINK_BYTES)
        links = nodes.words.view(np.uint8)[nodes.row[big][:, None], columns].view("<u8")[:, 0]
        ends = _page_numbers(links, pages) + -(-(PAGE_HEADER_BYTES + size[big]) // page_size)
        if int(ends.max()) > len(pages):
            _refuse_cut(int(ends.max()) - 1, pages)
    return len(size)


def _require_inside(nodes: _Nodes, num_bytes: Ints) -> None:
    """Refuse nodes of which the `num_bytes` behind their header are not all in their page."""
    if (2 * nodes.at + NODE_HEADER_BYTES + num_bytes > 2 * nodes.words.shape[1]).any():
        _refuse("a key or value that leaves its page")


def _refuse(found: str) -> NoReturn:
    raise UserError(f"expected a readable LMDB (folder with data.mdb, or a single file), got: {found}")


def _refuse_cut(page: int, pages: Bytes) -> NoReturn:
    count, page_size = pages.shape
    raise UserError(f"truncated LMDB, expected at least {(page + 1) * page_size:,} bytes, got {count * page_size:,}")
