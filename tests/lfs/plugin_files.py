"""Plug-ins as real modules and installed packages, which a test can import and then forget."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lfs.plugins import VARIABLE
from search_space import loss as losses
from search_space import margins, plugins, spaces
from trainers import backbones, metrics

Write = Callable[..., Path]
"""Writes a module, and says in which folder."""

LOSS = """
from dataclasses import dataclass
from search_space.margin_loss import MarginLoss

@dataclass(frozen=True, kw_only=True)
class Mine(MarginLoss):
    size: float = 0.1

    def target_cosine(self, cosine):
        return cosine - self.size
"""
SPACE = """
from search_space.spaces import SearchSpace

class Space(SearchSpace):
    parameter_names = ("scale", "size")

    def __init__(self, config):
        super().__init__(config, mean0=[0.2], std=0.1, takes=("parameters",))

    def loss(self, action):
        return Mine(scale=self.scale, size=float(action[0]))
"""

KINDS = (losses._STORED, margins.NAMES, spaces.NAMES, backbones.NAMES, metrics.NAMES)


@contextmanager
def forgotten(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Modules of a folder can be imported in this block; after it no plug-in is known or allowed."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]
        forget()
        environment.pop(VARIABLE, None)


def forget() -> None:
    """As in a process that has just started."""
    plugins._allowed.clear()
    plugins.declared.cache_clear()
    for kind in KINDS:
        kind._loaded.clear()


def install(folder: Path, name: str, points: Mapping[str, Mapping[str, str]]) -> None:
    """What pip leaves of a package: its metadata, with entry points by group."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "top_level.txt").write_text(f"{name}\n")
    groups = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in of.items()) for group, of in points.items())
    (info / "entry_points.txt").write_text("\n".join(groups))
