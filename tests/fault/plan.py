"""Which process is killed when: all of it follows from one seed."""

import random
from dataclasses import dataclass

VICTIMS = ("trainer", "controller", "node", "driver", "cluster")
MOMENTS = ("time", "close", "commit", "test")
MAX_FAULTS = 3
COMMIT_S = 0.03
"""A commit of the small recipe takes about so long."""
TEST_S = 0.4
"""And the close of its last generation with the final test."""
BACK_S = 4.0
"""Most seconds until a node that was killed is started again."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One process, or all, that ends with -9."""

    victim: str
    """One of `VICTIMS`."""

    moment: str
    """`time`: so many seconds after the first start; `close`: after all but one candidate of a generation are done;
    `commit`: after its folder is made; `test`: after the last generation's last candidate is done."""

    generation: int
    """For `close` and `commit`: this one or the first that comes after the fault before."""

    delay_s: float
    which: float
    """In [0, 1): which of several victims of the kind."""

    back_s: float
    """For `node`: seconds until it is started again."""

    position: float
    """In [0, 1]: about where in a search that is."""


def plan(seed: int, duration_s: float, candidate_s: float, generations: int) -> list[Fault]:
    """The faults of one run, in order; the first victim goes around with the seed, so that five runs hold all.

    Args:
        duration_s: of the undisturbed search, from the driver's start to its end.
        candidate_s: of one candidate.
    """
    chance = random.Random(seed)
    victims = [VICTIMS[seed % len(VICTIMS)], *(chance.choice(VICTIMS) for _ in range(chance.randrange(MAX_FAULTS)))]
    spans = {"time": duration_s, "close": 1.5 * candidate_s, "commit": COMMIT_S, "test": TEST_S}
    faults = []
    for victim in victims:
        moment = chance.choice(("time", "time", *MOMENTS[1:]))
        within, at = chance.random(), chance.random()
        faults.append(
            Fault(
                victim=victim,
                moment=moment,
                generation=int(at * generations),
                delay_s=within * spans[moment],
                which=chance.random(),
                back_s=chance.random() * BACK_S,
                position={"time": within, "test": 1.0}.get(moment, at),
            )
        )
    return sorted(faults, key=lambda fault: fault.position)
