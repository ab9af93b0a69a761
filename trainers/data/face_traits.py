"""What makes a drawn face somebody (`Identity`), and what two pictures of it differ in (`Picture`): numbers only."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Color = tuple[float, float, float]
"""Blue, green, red in 0..255, as OpenCV orders them."""

# Name: (mean, standard deviation between people, pull of the masculine side). Lengths in head units: half the width of
# an average head is 1, x to the right, y down, z towards the camera, the eyes of an average head at y = 0.
TRAITS: dict[str, tuple[float, float, float]] = {
    "head_width": (0.92, 0.055, 0.02),
    "jaw_width": (0.76, 0.065, 0.04),
    "jaw_square": (0.0, 0.05, 0.03),
    "chin_length": (1.30, 0.07, 0.03),
    "chin_width": (0.25, 0.06, 0.05),
    "cheekbone": (0.0, 0.035, -0.01),
    "ear_size": (0.27, 0.045, 0.02),
    "ear_out": (0.10, 0.045, 0.0),
    "eye_gap": (0.415, 0.032, 0.0),
    "eye_y": (0.0, 0.035, 0.0),
    "eye_width": (0.215, 0.020, -0.008),
    "eye_height": (0.122, 0.020, -0.008),
    "eye_tilt": (0.03, 0.055, -0.01),
    "eye_round": (0.8, 0.12, 0.0),
    "iris": (0.102, 0.007, 0.0),
    "crease": (0.07, 0.028, 0.0),
    "lash": (1.4, 0.5, -0.4),
    "brow_gap": (0.255, 0.040, -0.03),
    "brow_width": (0.285, 0.030, 0.01),
    "brow_thick": (0.062, 0.020, 0.016),
    "brow_arch": (0.045, 0.024, -0.012),
    "brow_tilt": (0.03, 0.055, -0.01),
    "brow_inner": (0.0, 0.025, -0.01),
    "nose_length": (0.52, 0.055, 0.01),
    "nose_width": (0.185, 0.034, 0.012),
    "nose_bridge": (0.085, 0.022, 0.006),
    "nose_height": (0.30, 0.060, 0.02),
    "nose_hook": (0.0, 0.035, 0.0),
    "nostril": (0.048, 0.011, 0.0),
    "mouth_y": (0.845, 0.045, 0.01),
    "mouth_width": (0.335, 0.042, 0.01),
    "upper_lip": (0.070, 0.022, -0.008),
    "lower_lip": (0.095, 0.024, -0.008),
    "cupid": (0.018, 0.012, -0.004),
    "mouth_curve": (0.0, 0.022, 0.0),
    "hairline": (-0.70, 0.075, 0.0),
    "hair_volume": (0.12, 0.05, -0.02),
    "hair_skew": (0.0, 0.5, 0.0),
    "cheek_full": (0.0, 1.0, -0.2),
    "socket_deep": (0.0, 1.0, 0.3),
    "blush": (0.0, 1.0, -0.4),
    "lip_red": (0.0, 1.0, -0.6),
    "under_eye": (0.0, 1.0, 0.2),
}

SKIN = ((176, 202, 240), (150, 184, 232), (122, 158, 214), (88, 120, 178), (58, 80, 128), (42, 54, 88))
HAIR = ((22, 20, 22), (24, 32, 46), (30, 46, 74), (44, 72, 112), (70, 112, 160), (120, 170, 210), (36, 68, 138))
GREY = (150.0, 150.0, 152.0)
IRIS = ((30, 42, 66), (38, 66, 100), (70, 110, 110), (96, 130, 110), (168, 140, 96), (150, 142, 130))
HAIR_STYLES = ("shaved", "short", "receding", "side_part", "fringe", "long", "curly", "bob", "long_fringe", "tied")
MASCULINE_STYLES = np.array([0.16, 0.30, 0.20, 0.16, 0.06, 0.02, 0.08, 0.0, 0.0, 0.02])
FEMININE_STYLES = np.array([0.01, 0.07, 0.01, 0.08, 0.05, 0.24, 0.12, 0.16, 0.13, 0.13])
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
BEARD_ODDS = np.array([0.52, 0.18, 0.08, 0.10, 0.12])


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One person; the same in all pictures."""

    traits: dict[str, float]
    """One value for each name in `TRAITS`."""

    skin: Color
    hair: Color
    iris: Color
    hair_styles: tuple[str, str]
    """Usual and other way to wear it."""

    beard: str
    age: float
    """0 young, 1 old: wrinkles."""

    spots: npt.NDArray[np.float64]
    """[spots, 3] freckles and moles: x, y, radius in head units."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One photograph: all that has nothing to do with who it is."""

    yaw: float
    pitch: float
    roll: float
    """Angles in radians."""

    shift: tuple[float, float]
    """Misalignment as a fraction of the picture side."""

    zoom: float
    expression: npt.NDArray[np.float64]
    """Weight of each of `face_shape.EXPRESSIONS`."""

    gaze: tuple[float, float]
    hair_look: int
    """Which of the two hair styles is worn."""

    light: tuple[float, float, float]
    """Direction towards the light, any length; the length is its strength."""

    ambient: float
    gain: Color
    """Exposure and colour temperature, one factor per channel."""

    background: npt.NDArray[np.uint8]
    """[3, 3, 3] colours that are interpolated over the picture."""

    clothes: Color
    accessory: str
    """`none`, `glasses`, `sunglasses`, `hat` or `hand`."""

    accessory_color: Color
    accessory_at: tuple[float, float]
    blur: float
    """Standard deviation in pixels."""

    noise: float
    """Standard deviation in grey levels."""

    quality: int
    """Of the JPEG."""


def mix(a: Color, b: Color, weight: float) -> Color:
    """`a` with `weight` of `b` in it."""
    keep = 1 - weight
    return keep * a[0] + weight * b[0], keep * a[1] + weight * b[1], keep * a[2] + weight * b[2]


def _palette(rng: np.random.Generator, colors: tuple[tuple[int, int, int], ...], place: float, spread: float) -> Color:
    """The colour at `place` (0..1) along a palette, each channel changed by a factor of about 1 +- `spread`."""
    at = max(0.0, min(1.0, place)) * (len(colors) - 1)
    low = min(int(at), len(colors) - 2)
    b, g, r = (
        min(250.0, float(c * (1 + spread * rng.standard_normal()))) for c in mix(colors[low], colors[low + 1], at - low)
    )
    return b, g, r


def _spots(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """[spots, 3] a few moles, and freckles on one face in seven."""
    moles = rng.poisson(0.7)
    freckles = rng.integers(12, 30) if rng.random() < 0.14 else 0
    x = rng.uniform(-0.7, 0.7, moles + freckles)
    y = np.concatenate([rng.uniform(-0.5, 1.1, moles), rng.normal(0.38, 0.13, freckles)])
    radius = np.concatenate([rng.uniform(0.022, 0.042, moles), rng.uniform(0.012, 0.022, freckles)])
    return np.stack([x, y, radius], axis=1)


def draw_identity(rng: np.random.Generator) -> Identity:
    """A new person from a generator that is used for nothing else."""
    masculine = 1.0 if rng.random() < 0.5 else -1.0
    values = np.clip(rng.standard_normal(len(TRAITS)), -2.2, 2.2)
    traits = {
        name: mean + sd * float(value) + masculine * pull
        for (name, (mean, sd, pull)), value in zip(TRAITS.items(), values, strict=True)
    }
    age = float(rng.beta(1.2, 2.0))
    skin = _palette(rng, SKIN, rng.beta(1.1, 1.9), 0.035)
    darkness = 1 - sum(skin) / 620  # dark skin rarely comes with light hair and eyes
    hair = _palette(rng, HAIR, rng.random() * (1 - 0.8 * darkness), 0.07)
    if age > 0.6:
        hair = mix(hair, GREY, 2 * (age - 0.5))
    styles = rng.choice(HAIR_STYLES, 2, p=MASCULINE_STYLES if masculine > 0 else FEMININE_STYLES)
    return Identity(
        traits=traits,
        skin=skin,
        hair=hair,
        age=age,
        iris=_palette(rng, IRIS, rng.random() * (1 - 0.8 * darkness), 0.07),
        hair_styles=(str(styles[0]), str(styles[1])),
        beard=str(rng.choice(BEARDS, p=BEARD_ODDS)) if masculine > 0 else "none",
        spots=_spots(rng),
    )


ACCESSORIES = (("none", 0.58), ("glasses", 0.14), ("sunglasses", 0.07), ("hat", 0.12), ("hand", 0.09))


def _accessory(at: float) -> str:
    """The accessory that a number in 0..1 falls on."""
    for name, odds in ACCESSORIES:
        if at < odds:
            return name
        at -= odds
    return "none"


def _within(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def _greyish(rng: np.random.Generator, low: float, high: float) -> Color:
    """Not too colourful a colour, brightness uniform in low..high."""
    grey = low + (high - low) * rng.random()
    b, g, r = (min(250.0, max(5.0, grey + 25 * value)) for value in rng.standard_normal(3).tolist())
    return b, g, r


def _background(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    room = rng.uniform(30, 220) + 30 * rng.standard_normal((3, 3, 1)) + 14 * rng.standard_normal(3)
    return np.clip(room + 10 * rng.standard_normal((3, 3, 3)), 0, 255).astype(np.uint8)


def draw_picture(rng: np.random.Generator) -> Picture:
    """The circumstances of one photograph, from a generator that is used for nothing else."""
    n: list[float] = rng.standard_normal(14).tolist()
    u: list[float] = rng.random(13).tolist()
    strength, around = 0.35 + 0.55 * u[0], 2 * math.pi * u[1]
    exposure, warmth = 0.9 * 2 ** (0.33 * n[0]), 0.12 * n[1]
    smile, opened, frown = 1.1 * max(0.0, n[2]) - 0.3 * u[2], max(0.0, n[3] - 0.5), 0.6 * max(0.0, n[5])
    return Picture(
        yaw=_within(0.33 * n[6], 0.66),
        pitch=_within(0.17 * n[7], 0.38),
        roll=0.07 * n[8],
        shift=(0.022 * n[9], 0.022 * n[10]),
        zoom=1 + 0.05 * n[11],
        expression=np.array([smile, opened, 0.6 * n[4], frown, u[3] ** 8]),
        gaze=(0.35 * n[12], 0.2 * n[13]),
        hair_look=int(u[4] < 0.35),
        light=(strength * math.cos(around), 0.6 * strength * math.sin(around) - 0.25, strength * (0.35 + 0.9 * u[5])),
        ambient=0.42 + 0.25 * u[6],
        gain=(exposure * (1 + warmth), exposure, exposure * (1 - warmth)),
        background=_background(rng),
        clothes=_greyish(rng, 15, 210),
        accessory=_accessory(u[7]),
        accessory_color=_greyish(rng, 10, 150),
        accessory_at=(u[8], u[9]),
        blur=0.35 + 1.2 * u[10] ** 2,
        noise=1.5 + 9 * u[11] ** 2,
        quality=int(35 + 60 * u[12]),
    )
