"""Flags and YAML in, one checked configuration out; every mistake ends in one line that names its place.

A recipe (YAML) is laid over the defaults, flags over the recipe, and pydantic checks the types of the result.
"""

import argparse
import ast
import dataclasses
import difflib
import functools
import inspect
import textwrap
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NoReturn

import pydantic
import yaml

from lfs.untrusted import MAX_YAML_BYTES, read_yaml
from search_space.errors import UserError, shown
from trainers.untrusted import read_file

RECIPES = Path(__file__).resolve().parent.parent / "configs"
Tree = dict[str, Any]
T = typing.TypeVar("T")


@functools.cache
def field_help(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and of those that it extends, by field name."""
    notes: dict[str, str] = {}
    for base in cls.__bases__:
        if dataclasses.is_dataclass(base):
            notes |= field_help(base)
    [body] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(body, ast.ClassDef)
    for item, after in zip(body.body, body.body[1:], strict=False):
        is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_doc:
            notes[item.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return notes


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted name, type, help) of every setting below a dataclass."""
    notes, hints = field_help(cls), typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        name = prefix + item.name
        if dataclasses.is_dataclass(hints[item.name]):
            yield from leaves(hints[item.name], name + ".")
        else:
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            shown = "" if default in ("", None, {}, ()) else f" [{as_flag(default)}]"
            yield name, hints[item.name], notes[item.name] + shown


def as_flag(value: Any) -> str:
    """A setting as it is written on the command line."""
    if isinstance(value, dict):
        return " ".join(f"{key}={as_flag(inner)}" for key, inner in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def flag(name: str) -> str:
    """`trainer.batch_size` -> `--trainer.batch-size`."""
    return "--" + name.replace("_", "-")


class Parser(argparse.ArgumentParser):
    """argparse with a nearest-flag hint, errors of one line (exit 2), and flags anywhere between other arguments."""

    _between = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; `a b --flag c` gives `a b c` to the arguments that are no flags, however many one takes."""
        takes = {action.nargs for action in self._get_positional_actions()}
        if self._between or not takes or takes & {argparse.PARSER, argparse.REMAINDER}:
            return super().parse_known_args(args, namespace)
        self._between = True  # for the two passes of which argparse makes it
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._between = False

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split(" ")[0].split("=")[0]
        near = difflib.get_close_matches(unknown, list(self._option_string_actions), n=1, cutoff=0.5) if unknown else []
        hint = f" (did you mean {near[0]}?)" if near else ""
        self.exit(2, f"{self.prog}: {message}{hint}; see --help\n")


def add_flags(parser: argparse.ArgumentParser, cls: type, but: Collection[str] = ()) -> None:
    """One flag per setting of the dataclass, grouped by component; absent flags leave no trace in the result.

    Args:
        but: settings, or whole components, that get no flag.
    """
    groups: dict[str, Any] = {}
    for name, hint, note in leaves(cls):
        part = name.rpartition(".")[0]
        if name in but or part in but:
            continue
        group = groups.setdefault(part, parser.add_argument_group(part or "search"))
        kind = {"bool": "true|false"}.get(getattr(hint, "__name__", ""), "VALUE")
        group.add_argument(flag(name), dest=name, metavar=kind, default=argparse.SUPPRESS, help=note.replace("%", "%%"))


def read_recipe(name: str) -> tuple[Path, Tree, yaml.Node | None]:
    """A recipe by path, or by its bare name in configs/: where it is, its values, and its marked YAML nodes."""
    path = Path(name)
    if not path.is_file() and (RECIPES / f"{name}.yaml").exists():
        path = RECIPES / f"{name}.yaml"
    try:
        values, node = read_yaml(read_file(path, MAX_YAML_BYTES).decode())
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise UserError(f"no recipe {name!r}: expected a YAML file, or one of {known}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not YAML: {getattr(error, 'problem', None) or 'cannot be read'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text: {error}") from None
    except ValueError as error:
        raise UserError(f"{path}: not usable: {error}; see configs/ for what a recipe looks like") from None
    if values is None:
        return path, {}, None
    if not isinstance(values, dict):
        raise UserError(f"{path}, line 1: expected `key: value` lines, got {type(values).__name__}")
    return path, values, node


def line_of(node: yaml.Node | None, keys: tuple[str, ...]) -> int | None:
    """Line (from 1) of the innermost of nested `keys` that the YAML document has."""
    line = None
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        pairs = [(k, v) for k, v in node.value if k.value == key]
        if not pairs:
            break
        line, node = pairs[0][0].start_mark.line + 1, pairs[0][1]
    return line


def place(keys: tuple[str, ...], source: str, node: yaml.Node | None, flags: Mapping[str, str]) -> str:
    """Where a setting came from, for the front of an error message."""
    for end in range(len(keys), 0, -1):  # a setting that is a mapping is one flag
        if ".".join(keys[:end]) in flags:
            return flag(".".join(keys[:end]))
    line = line_of(node, keys)
    return f"{source}, line {line}" if line else source or "configuration"


def refuse_unknown(cls: type, values: Tree, source: str, node: yaml.Node | None, path: tuple[str, ...] = ()) -> None:
    """Raise `UserError` at the first key that names no field, with the nearest one that does."""
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        keys = (*path, key if isinstance(key, str) else shown(key))
        if key not in hints:
            near = difflib.get_close_matches(str(key)[:50], hints, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(hints)}"
            raise UserError(f"{place(keys, source, node, {})}: unknown key {shown('.'.join(keys))}; {hint}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                law = f"{place(keys, source, node, {})}: {'.'.join(keys)} must hold `key: value` lines"
                raise UserError(f"{law}, got {shown(value)}")
            refuse_unknown(typing.cast(type, hints[key]), value, source, node, keys)


def is_tuple(hint: Any) -> bool:
    """Whether a setting is a list of values, written with commas on the command line."""
    return typing.get_origin(hint) is tuple or (
        isinstance(hint, UnionType) and any(map(is_tuple, typing.get_args(hint)))
    )


def typed(text: str, hint: Any) -> object:
    """A flag's text as pydantic wants it: words stay words, lists split at commas, `none` is None."""
    if isinstance(hint, UnionType) and type(None) in typing.get_args(hint) and text.lower() in ("none", "null", "auto"):
        return None
    if is_tuple(hint):
        return [part.strip() for part in text.split(",") if part.strip()]
    if values := dict_values(hint):  # "am=0.1,0.2 arc=0.3"
        return {key: typed(value, values) for key, _, value in (entry.partition("=") for entry in text.split())}
    return text


def dict_values(hint: Any) -> Any:
    """The type of a mapping's values; None: a setting that is no mapping."""
    for part in typing.get_args(hint) if isinstance(hint, UnionType) else (hint,):
        if typing.get_origin(part) is dict:
            return typing.get_args(part)[1]
    return None


def split_commas(cls: type, values: Tree) -> Tree:
    """Recipe values with comma-separated strings of list settings split."""
    hints = typing.get_type_hints(cls)
    result: Tree = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            result[key] = split_commas(typing.cast(type, hints[key]), value)
        else:
            result[key] = typed(value, hints[key]) if is_tuple(hints[key]) and isinstance(value, str) else value
    return result


def overlay(values: Tree, flags: Mapping[str, str], cls: type) -> Tree:
    """The recipe's values with the flags' laid over them."""
    merged = split_commas(cls, values)
    hints = {name: hint for name, hint, _ in leaves(cls)}
    for name, text in flags.items():
        *parts, last = name.split(".")
        inner = merged
        for part in parts:
            inner = inner.setdefault(part, {})
        inner[last] = typed(text, hints[name])
    return merged


def describe(error: pydantic.ValidationError, source: str, node: yaml.Node | None, flags: Mapping[str, str]) -> str:
    """The first of pydantic's complaints as one line with its place."""
    first = error.errors()[0]
    keys = tuple(str(k) for k in first["loc"] if isinstance(k, str) and k.isidentifier())
    if first["type"] == "value_error":  # from a __post_init__, whose message starts with the field's name
        message = str(first["ctx"]["error"])
        words = message.replace(",", " ").split()
        named = [
            (*keys, w)
            for w in words
            if ".".join((*keys, w)) in flags or line_of(node, (*keys, w)) not in (None, line_of(node, keys))
        ]
        return f"{place(named[0] if named else keys, source, node, flags)}: {message}"
    expected = first["msg"].removeprefix("Input should be ").split(", ")[0]
    expected = expected.replace("a valid integer", "a whole number").replace("valid ", "")
    name, got = ".".join(keys), first["input"]
    return f"{place(keys, source, node, flags)}: {name} must be {expected}, got {shown(got)}"


def build(cls: type[T], recipe: str, flags: Mapping[str, str]) -> T:
    """The checked configuration of a recipe (empty: none) with flags laid over it.

    Raises:
        UserError: one line with file and line, or flag; what was expected; what was got.
    """
    path, values, node = read_recipe(recipe) if recipe else (Path(), {}, None)
    source = str(path) if recipe else ""
    refuse_unknown(cls, values, source, node)
    return checked(cls, overlay(for_another_space(values, flags), flags, cls), source, node, flags)


def for_another_space(values: Tree, flags: Mapping[str, str]) -> Tree:
    """A recipe's values without the settings of its search space, but for the scale, where a flag names another one."""
    space = values.get("space", {})
    if flags.get("space.name", space.get("name")) == space.get("name"):
        return values
    return {**values, "space": {name: value for name, value in space.items() if name == "scale"}}


@functools.cache
def _validator(cls: type) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(cls)


def checked(cls: type[T], values: Tree, source: str, node: yaml.Node | None = None, flags: Mapping[str, str] = {}) -> T:
    """`values` as the dataclass `cls`, types checked by pydantic."""
    try:
        return typing.cast(T, _validator(typing.cast(Any, cls)).validate_python(values))
    except pydantic.ValidationError as error:
        raise UserError(describe(error, source, node, flags)) from None


def number_from(least: int, most: int = 10**15) -> Callable[[str], int]:
    """The type of a flag that takes a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
            law = f"expected a whole number from {least}" + (f" to {most}" if most < 10**15 else "")
            raise argparse.ArgumentTypeError(f"{law}, got {text[:50]!r}")
        return int(text)

    return parse
