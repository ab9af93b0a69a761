"""Protocols in which people are found among millions, as functions of embeddings: MegaFace, Trillion-Pairs, IJB-C.

Everything is exact, in bounded memory, and the same on every machine: see `units` for what a score is, `identify` for
the laws of ties and thresholds.
"""

from trainers.identification.distractors import ArrayDistractors, Distractors, NpyDistractors
from trainers.identification.protocol import (
    GalleryResult,
    IdentificationReport,
    RankRate,
    identify,
    megaface,
    trillion_pairs,
)
from trainers.identification.templates import (
    IJB_FARS,
    TemplateReport,
    Templates,
    make_templates,
    verify_templates,
)
from trainers.identification.thresholds import FarPoint

__all__ = [
    "IJB_FARS",
    "ArrayDistractors",
    "Distractors",
    "FarPoint",
    "GalleryResult",
    "IdentificationReport",
    "NpyDistractors",
    "RankRate",
    "TemplateReport",
    "Templates",
    "identify",
    "make_templates",
    "megaface",
    "trillion_pairs",
    "verify_templates",
]
