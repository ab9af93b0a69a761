"""Names of losses, search spaces, backbones and metrics that are code of somebody else.

A plug-in goes by its dotted path, `package.module:Name`. An installed package may declare it, as an entry point of the
kind's group, under a short name; that is trusted as everything installed is. Any other dotted path is code that a
configuration names, and configurations are handed over: nothing is imported unless `allow` was told to, and nothing is
a plug-in that a trusted module has merely imported from elsewhere.
"""

import difflib
import functools
import importlib
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from search_space.errors import UserError, first_line, shown

MAX_PATH = 200
"""Characters of a dotted path."""

T = TypeVar("T")
_allowed: set[str] = set()


def allow(modules: Iterable[str]) -> None:
    """Let this process import plug-ins from these modules, and from all below them."""
    _allowed.update(modules)


def allowed() -> tuple[str, ...]:
    """All modules that `allow` was told of."""
    return tuple(sorted(_allowed))


def is_module(text: str) -> bool:
    """Whether a text is a module's full name."""
    return len(text) <= MAX_PATH and all(part.isidentifier() for part in text.split("."))


def is_path(name: str) -> bool:
    """Whether a name is a dotted path: `package.module:Name`."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and len(name) <= MAX_PATH and is_module(module) and is_module(attribute)


GROUPS = ("lfs.losses", "lfs.spaces", "lfs.backbones", "lfs.metrics")
"""Groups of entry points."""


@functools.cache
def declared(group: str) -> Mapping[str, frozenset[str]]:
    """The entry points of installed packages in a group: name -> dotted paths, of which there should be one."""
    found: dict[str, frozenset[str]] = {}
    for point in entry_points(group=group):
        path = point.value.partition("[")[0].replace(" ", "")
        if is_path(path):
            found[point.name] = found.get(point.name, frozenset()) | {path}
    return found


class Names(Generic[T]):
    """One kind of thing that goes by names: this project's own, and those of plug-ins.

    Args:
        setting: what a name is given for, for messages.
        group: the entry points' group.
        own: names of this project.
        fault: of what a plug-in's path leads to, and the path: what must be changed (after "must"); empty: nothing.
        elsewhere: names that others use -> own ones; only to guess what was meant.
    """

    def __init__(
        self,
        setting: str,
        group: str,
        own: Collection[str],
        fault: Callable[[object, str], str],
        elsewhere: Mapping[str, str] = {},
    ) -> None:
        self.setting, self.group, self.own = setting, group, own
        self._fault, self._elsewhere = fault, elsewhere
        self._loaded: dict[str, T] = {}

    def spelled(self, name: object, law: str = "") -> str:
        """The one spelling of a name: an own one, or a dotted path, also for that of an entry point. Imports nothing.

        Args:
            law: what a name must be, for the message.
        Raises:
            UserError: no such name; the nearest ones are given.
        """
        if isinstance(name, str) and (name in self.own or is_path(name)):
            return name
        known = declared(self.group)
        if isinstance(name, str) and name in known:
            if len(known[name]) > 1:
                both = " and ".join(sorted(known[name]))
                raise UserError(f"{self.setting} {name} is declared by several packages: name one of {both}")
            return next(iter(known[name]))
        names = list(dict.fromkeys([*self.own, *known]))
        law = law or f"{self.setting} must be one of {', '.join(names)}"
        text = name if isinstance(name, str) else ""
        law += ", or MODULE:NAME of a plug-in" * (":" in text)
        matches = difflib.get_close_matches(text[:MAX_PATH].lower(), [*names, *self._elsewhere], n=2, cutoff=0.5)
        nearest = " or ".join(dict.fromkeys(self._elsewhere.get(match, match) for match in matches))
        raise UserError(f"{law}, got {shown(name)}" + (f"; did you mean {nearest}?" if nearest else ""))

    def plugin(self, path: str) -> T:
        """What a dotted path leads to, once it is known to be what it must be.

        Raises:
            UserError: nobody allowed it, it cannot be imported, or it lacks something.
        """
        module, _, attribute = path.partition(":")
        if not _may_import(module):
            law = f"{self.setting} {path} is code, which is not run because a configuration names it"
            raise UserError(f"{law}; if you trust it, add --allow-plugins {module}")
        if path not in self._loaded:
            found = _imported(f"{self.setting} {path}", module, attribute)
            try:
                fault = self._foreign(found, path) or self._fault(found, path)
            except Exception as error:  # whatever the code of a plug-in raises when it is tried
                fault = f"work when it is tried: {type(error).__name__}: {first_line(error)}"
            if fault:
                raise UserError(f"{self.setting} {path} must {fault}")
            self._loaded[path] = found  # type: ignore[assignment]
        return self._loaded[path]

    def _foreign(self, found: object, path: str) -> str:
        """What is wrong with where something was defined; what cannot be called does nothing wherever it is from."""
        module = path.partition(":")[0]
        if not callable(found) or any(path in paths for paths in declared(self.group).values()):
            return ""
        home = getattr(found, "__module__", None)
        if isinstance(home, str) and (home == module or _may_import(home) or _is_below(home, _package(module))):
            return ""
        law = f"be defined in {module} or its package, or be declared by an installed package"
        return f"{law}; it comes from {home}" if isinstance(home, str) else law


def _may_import(module: str) -> bool:
    """Whether somebody allowed a module, or an installed package declares something in it."""
    parts = module.split(".")
    above = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    of_packages = {path.partition(":")[0] for group in GROUPS for paths in declared(group).values() for path in paths}
    return module in of_packages or not above.isdisjoint(_allowed)


def _package(module: str) -> str:
    """The package that an imported module is, or is in; empty: none."""
    return getattr(importlib.import_module(module).__spec__, "parent", None) or ""


def _is_below(module: str, package: str) -> bool:
    return bool(package) and (module == package or module.startswith(f"{package}."))


def _imported(what: str, module: str, attribute: str) -> object:
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        where = "install it, or start where it lies" if module.startswith(str(error.name)) else f"{module} needs it"
        raise UserError(f"{what}: there is no module {error.name} here: {where}") from None
    except Exception as error:
        law = f"{what} cannot be imported: {type(error).__name__}: {first_line(error)}"
        raise UserError(f"{law}; `python -c 'import {module}'` shows where") from None
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{what}: module {module} has no {name}{hint}")
        found = getattr(found, name)
    return found
