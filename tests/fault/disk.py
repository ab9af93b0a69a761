"""A disk in memory that knows what a loss of power would leave of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lfs.files import Entry, Part

Chance = Callable[[], bool]
"""Whether one thing that was not synced survives."""


@dataclass
class Node:
    """A file or a folder: as it is, and as it is safe."""

    is_folder: bool
    data: bytes = b""
    safe_data: bytes = b""
    names: dict[str, "Node"] = field(default_factory=dict)
    safe_names: dict[str, "Node"] = field(default_factory=dict)

    def after_loss(self, survives: Chance) -> "Node":
        """What is there after power was lost: of what was not synced, each name and each end of a file by chance."""
        data = self.data
        if data != self.safe_data and not survives():
            data = self.data[: len(self.data) // 2] if survives() else self.safe_data
        names = {}
        for name in self.names | self.safe_names:
            if self.names.get(name) is self.safe_names.get(name) or survives():
                node = self.names.get(name)
            else:
                node = self.safe_names.get(name)
            if node is not None:
                names[name] = node.after_loss(survives)
        return Node(self.is_folder, data, data, names, dict(names))


class Disk:
    """`Files` in memory.

    Args:
        whole: as in an object store: a file is there when it is complete, and then it is safe.
    """

    def __init__(self, root: Node | None = None, *, whole: bool = False) -> None:
        self.root, self.whole = root or Node(True), whole

    def after_loss(self, survives: Chance) -> "Disk":
        """The disk of the machine that is started again."""
        return Disk(self.root if self.whole else self.root.after_loss(survives), whole=self.whole)

    def read(self, path: str) -> Iterator[bytes]:
        node = self._find(path)
        if node is None or node.is_folder:
            raise FileNotFoundError(2, "No such file", path)
        yield node.data

    def create(self, path: str, parts: Iterable[Part]) -> None:
        folder, name = self._folder(path)
        if self.whole:
            node = Node(False, data=b"".join(map(bytes, parts)))
        else:
            node = folder.names.setdefault(name, Node(False))
            node.data = b""
            for part in parts:
                node.data += bytes(part)
        node.safe_data = node.data
        folder.names[name] = node

    def rename(self, old: str, new: str) -> None:
        folder, name = self._folder(old)
        folder.names[self._folder(new)[1]] = folder.names.pop(name)

    def sync_folder(self, path: str) -> None:
        folder, _ = self._folder(f"{path.rstrip('/')}/.")
        folder.safe_names = dict(folder.names)

    def make_folder(self, path: str) -> None:
        folder, name = self._folder(path)
        folder.names.setdefault(name, Node(True))

    def info(self, path: str) -> Entry | None:
        node = self._find(path)
        return node and Entry(name=path.rpartition("/")[2], is_folder=node.is_folder)

    def list(self, path: str, *, deep: bool = False) -> list[Entry]:
        node = self._find(path)
        return [] if node is None else list(_listed(node, "", deep))

    def size(self, path: str) -> int:
        node = self._find(path)
        return 0 if node is None else len(node.data) + sum(self.size(f"{path}/{name}") for name in node.names)

    def delete_file(self, path: str) -> None:
        folder, name = self._folder(path)
        if name not in folder.names:
            raise FileNotFoundError(2, "No such file", path)
        del folder.names[name]

    def delete_folder(self, path: str) -> None:
        self.delete_file(path)

    def _find(self, path: str) -> Node | None:
        node: Node | None = self.root
        for name in filter(None, path.split("/")):
            node = node and node.names.get(name)
        return node

    def _folder(self, path: str) -> tuple[Node, str]:
        before, _, name = path.rpartition("/")
        folder = self._find(before)
        if folder is None:
            raise FileNotFoundError(2, "No such folder", path)
        return folder, name


def _listed(node: Node, before: str, deep: bool) -> Iterator[Entry]:
    for name, inner in node.names.items():
        yield Entry(name=before + name, is_folder=inner.is_folder)
        if deep:
            yield from _listed(inner, f"{before}{name}/", deep)
