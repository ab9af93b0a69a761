"""The parameters of the loss `unified`, for whoever shows or searches them: apart from torch, which takes seconds."""

from typing import NamedTuple


class Parameter(NamedTuple):
    """One parameter, and how the `unified` space searches it."""

    part: str
    low: float
    high: float
    start: float
    """First mean, if searched."""
    unit: float = 1.0
    """What one unit of the action is worth. Chosen so that one step of the policy matters about as much everywhere: the
    range is about half a unit, as for a margin."""
    fixed: float = 0.0
    """Value, if not searched: the parameter has no effect."""


PARAMETERS = {
    "m_arc": Parameter("target", 0, 0.6, 0.1),
    "m_cos": Parameter("target", 0, 0.5, 0.15),
    "t_hard": Parameter("negatives", 0, 0.6, 0.1),
    "t_easy": Parameter("negatives", -0.3, 0.3, 0),
    "curriculum": Parameter("negatives", 0, 1, 0.2, unit=2),
    "gamma": Parameter("outer", 0, 3, 0.5, unit=5),
}
"""All but the scale. m_arc and m_cos at their start make about the margin that the space `global` starts from."""
