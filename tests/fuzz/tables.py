"""Parquet files made hostile."""

import random

from tests.fuzz.mutate import Case, mutated_bytes
from tests.fuzz.thrift import empty_page


def mutated_table(data: Case, rng: random.Random) -> Case:
    """By bytes, half of them in the footer; the footer's length is made right again, mostly."""
    length = int.from_bytes(data[-8:-4], "little")
    pages, footer = data[: -8 - length], data[-8 - length : -8]
    if rng.random() < 0.1:
        return mutated_bytes(data, rng, (b"PAR1",))
    tokens = (
        b"\xff\xff\xff\xff\x0f",
        b"\xfe\xff\xff\xff\x0f",
        b"\x80\x80\x80\x80\x10",
        b"\x00",
        b"\x15\x02",
        b"\x19" * 3000,
        empty_page() * 500,
    )
    if rng.random() < 0.5:
        pages = mutated_bytes(pages, rng, tokens)
    else:
        footer = mutated_bytes(footer, rng, tokens)
    return pages + footer + len(footer).to_bytes(4, "little") + b"PAR1"
