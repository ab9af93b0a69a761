"""Writes LMDB files page by page, in page sizes of machines other than this one."""

import struct
from collections.abc import Mapping
from pathlib import Path

PAGE_HEADER, NODE_HEADER = 16, 8
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
NO_PAGE = 2**64 - 1
Node = tuple[bytes, bytes, int]
"""Key, what follows it, and the three 16-bit numbers before the size of the key as one number."""


class LmdbFile:
    """A compact file with one plain database of `items`."""

    def __init__(self, items: Mapping[bytes, bytes], page_size: int) -> None:
        self.page_size, self.pages = page_size, [b"", b""]
        self.counts = {BRANCH: 0, LEAF: 0, OVERFLOW: 0}
        level = self._level([self._leaf_node(key, value) for key, value in sorted(items.items())], LEAF)
        depth = 1 if items else 0
        while len(level) > 1:
            level = self._level([(key if i else b"", b"", page) for i, (key, page) in enumerate(level)], BRANCH)
            depth += 1
        root = level[0][1] if level else NO_PAGE
        self.pages[:2] = [self._meta(0, 0, 0, NO_PAGE), self._meta(1, depth, len(items), root)]

    def write(self, path: Path) -> Path:
        """The file."""
        path.write_bytes(b"".join(self.pages))
        return path

    def _leaf_node(self, key: bytes, value: bytes) -> Node:
        if NODE_HEADER + len(key) + len(value) <= ((self.page_size - PAGE_HEADER) // 2 & -2) - 2:
            return key, value, len(value)
        number = len(self.pages)
        count = -(-(PAGE_HEADER + len(value)) // self.page_size)
        head = struct.pack("<QHHI", number, 0, OVERFLOW, count)
        whole = (head + value).ljust(count * self.page_size, b"\0")
        self.pages += [whole[i : i + self.page_size] for i in range(0, len(whole), self.page_size)]
        self.counts[OVERFLOW] += count
        return key, struct.pack("<Q", number), len(value) | 1 << 32

    def _level(self, nodes: list[Node], kind: int) -> list[tuple[bytes, int]]:
        """Pages full of nodes: (first key, page number) of each; a branch of one link is not allowed."""
        groups: list[list[Node]] = []
        for node in nodes:
            if not groups or self._size([*groups[-1], node]) > self.page_size:
                groups.append([])
            groups[-1].append(node)
        if kind == BRANCH and len(groups) > 1 and len(groups[-1]) == 1:
            groups[-1].insert(0, groups[-2].pop())
        return [(group[0][0], self._page(group, kind)) for group in groups]

    @staticmethod
    def _size(nodes: list[Node]) -> int:
        return PAGE_HEADER + sum(2 + NODE_HEADER + (len(k) + len(v) + 1 & -2) for k, v, _ in nodes)

    def _page(self, nodes: list[Node], kind: int) -> int:
        page, number, upper = bytearray(self.page_size), len(self.pages), self.page_size
        for i, (key, value, numbers) in enumerate(nodes):
            node = struct.pack("<IHH", numbers & 2**32 - 1, numbers >> 32, len(key)) + key + value
            upper -= len(node) + 1 & -2
            page[upper : upper + len(node)] = node
            struct.pack_into("<H", page, PAGE_HEADER + 2 * i, upper)
        struct.pack_into("<QHHHH", page, 0, number, 0, kind, PAGE_HEADER + 2 * len(nodes), upper)
        self.pages.append(bytes(page))
        self.counts[kind] += 1
        return number

    def _meta(self, number: int, depth: int, entries: int, root: int) -> bytes:
        free = struct.pack("<IHHQQQQQ", self.page_size, 0x4008, 0, 0, 0, 0, 0, NO_PAGE)
        main = struct.pack("<IHHQQQQQ", 0, 0, depth, *self.counts.values(), entries, root)
        last = len(self.pages) - 1
        head = struct.pack("<QHHI", number, 0, META, 0) + struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 2**20)
        return (head + free + main + struct.pack("<QQ", last, number)).ljust(self.page_size, b"\0")
