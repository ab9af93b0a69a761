"""Valid files made hostile: at their bytes, at the numbers in them, and at the values of a parsed text."""

import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

Case = bytes
Mutate = Callable[[Case, random.Random], Case]

NUMBERS = (0, 1, 2, 3, 7, 15, 16, 127, 128, 255, 256, 511, 4095, 4096, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1,
           2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)  # fmt: skip
FORMATS = ("B", "<H", "<I", "<Q", ">H", ">I")


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, math.nan, math.inf, -math.inf, 1e308,
    5e-324, "", "x" * 5000, "\x1b[2Jred", "\u202egnp", "²", "99999999999999999999", "../../x", "/dev/zero", "a\nb",
    "\x00", "=1+1", "[red]x[/red]", "tar@far=x", "all:tar@far=1e-9", "none", "nan", "1e999", "0x10", [], {}, [[]],
    {"": None}, [1] * 300, [None], ["a", 1], {"a": {"b": 1}}, nested(20), nested(80),
)  # fmt: skip


def mutated_bytes(data: Case, rng: random.Random, tokens: Sequence[bytes] = ()) -> Case:
    """A few random changes of bytes, numbers and blocks."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        span = min(rng.choice((1, 1, 2, 4, 8, 16, 64, 1000)), len(changed) - at)
        match rng.randrange(8 if tokens else 7):
            case 0 if span:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + span] = rng.randbytes(span)
            case 2:
                _put_number(changed, at, rng)
            case 3:
                del changed[at : at + span]
            case 4:
                changed[at:at] = changed[at : at + span] * rng.choice((1, 1, 2, 50))
            case 5:
                start = rng.randrange(len(changed) + 1)
                changed[at : at + span] = changed[start : start + span]
            case 6 if rng.random() < 0.3:
                del changed[at:]
            case 7:
                changed[at : at + rng.choice((0, span))] = rng.choice(tokens)
    return bytes(changed[: 2**20])


def _put_number(data: bytearray, at: int, rng: random.Random) -> None:
    """A suspicious number, or one near what is there, in place of one that lies where numbers lie."""
    form = rng.choice(FORMATS)
    size = struct.calcsize(form)
    at -= at % rng.choice((1, size))
    if at + size > len(data):
        return
    old = struct.unpack_from(form, data, at)[0]
    new = rng.choice((*NUMBERS, old + 1, old - 1, old * 2, old // 2, len(data), len(data) // 4096))
    struct.pack_into(form, data, at, new % 2 ** (8 * size))


def mutated_tree(value: Any, rng: random.Random) -> Any:
    """A parsed text with a few of its values changed, dropped, moved or renamed."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _change(value, rng)
    return value


def _change(value: Any, rng: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return rng.choice((*VALUES, [value], {"x": value}, str(value)))
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, made = rng.choice(keys), value.copy()
    kind = rng.random()
    if kind < 0.75:
        made[key] = _change(value[key], rng)
    elif kind < 0.85:
        del made[key]
    elif isinstance(made, dict):
        made[rng.choice(("", "x", "\x1b[1m", key.upper() if isinstance(key, str) else "y"))] = made[rng.choice(keys)]
    else:
        made.insert(key, rng.choice((*made, *VALUES)))
    return made
