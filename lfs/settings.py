"""Settings of a comparison or another set of runs: written when it is made, and held to when it is resumed."""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import yaml

from lfs.options import checked, flag, overlay, refuse_unknown
from lfs.run_store import FORMAT, RunStore, plain, refuse_format
from lfs.untrusted import read_yaml
from search_space.errors import UserError, shown

T = TypeVar("T")


def save_settings(root: RunStore, file: str, config: Any) -> None:
    """Write resolved settings into a folder.

    Raises:
        UserError: it cannot be written.
    """
    text = yaml.safe_dump({"format": FORMAT, "settings": plain(asdict(config))}, sort_keys=False)
    try:
        root.write(text.encode(), file)
    except OSError as error:
        raise UserError(f"storage {root.uri}: cannot be written: {error}; choose another --storage") from None


def load_settings(root: RunStore, file: str, cls: type[T]) -> T:
    """What `save_settings` wrote.

    Raises:
        UserError: there is none, it is damaged or of another version.
    """
    if not root.exists(file):
        raise UserError(f"{root.uri} cannot be resumed: it has no {file}")
    try:
        values, _ = read_yaml(root.read(file))
        stored, found = values["settings"], values["format"]
    except (yaml.YAMLError, KeyError, TypeError, OSError, ValueError) as error:
        line = str(error).split("\n")[0]
        raise UserError(f"{root.uri}/{file}: not the settings of a comparison: {line}") from None
    refuse_format(found, f"{root.uri}/{file}")
    if not isinstance(stored, dict):
        raise UserError(f"{root.uri}/{file}: not the settings of a comparison: got {shown(stored)}")
    refuse_unknown(cls, stored, f"{root.uri}/{file}", None)
    return checked(cls, stored, f"{root.uri}/{file}")


def changed(config: T, flags: Mapping[str, str], may: Collection[str]) -> dict[str, Any]:
    """Settings that are given anew and may differ.

    Raises:
        UserError: a flag would change another one.
    """
    given = checked(type(config), overlay(plain(asdict(config)), flags, type(config)), "", flags=flags)  # type: ignore[call-overload]
    for name in flags:
        if name not in may and _setting(given, name) != _setting(config, name):
            can = ", ".join(map(flag, may))
            raise UserError(
                f"{flag(name)} cannot change on resume, or results could not be compared: it was "
                f"{_setting(config, name)!r}, got {_setting(given, name)!r}; these can: {can}"
            )
    return {name: getattr(given, name) for name in flags if name in may}


def _setting(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
