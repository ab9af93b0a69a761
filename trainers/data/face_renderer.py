"""Draw a picture of a person: flat curves painted at twice the size, then light, lens and sensor at the final size."""

import cv2
import numpy as np
import numpy.typing as npt

from trainers.data.face_shape import UNIT, Floats, HeadShape, project
from trainers.data.face_traits import Color, Identity, Picture, mix

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.int32]

OVERSAMPLING = 2
FRACTION_BITS = 4  # OpenCV takes coordinates as fixed-point numbers
ONE = 2**FRACTION_BITS
HAIRLINE_POINTS = 25  # of the curve `hair`; the others run over the crown
WHITE = (225.0, 232.0, 235.0)
BLACK = (18.0, 16.0, 18.0)


def _fix(points: Floats) -> Points:
    return np.asarray(np.rint(points * ONE), np.int32)


def _times(a: Color, factor: float) -> Color:
    return a[0] * factor, a[1] * factor, a[2] * factor


class Painter:
    """One picture being painted: the canvas and where each curve of the head lies on it."""

    def __init__(self, shape: HeadShape, identity: Identity, picture: Picture, side: int) -> None:
        self.side = side * OVERSAMPLING
        self.identity, self.picture, self.parts = identity, picture, shape.parts
        self.look = picture.hair_look
        self.hair_style = identity.hair_styles[self.look]
        self.xy = project(shape, picture, self.side)
        self.fixed = _fix(self.xy)
        self.unit = UNIT * self.side
        self.canvas: Image = cv2.resize(picture.background, (self.side, self.side))  # type: ignore[assignment]

    def at(self, name: str) -> Floats:
        return self.xy[self.parts[name]]

    def ring(self, *names: str) -> Points:
        rings = [self.fixed[self.parts[name]] for name in names]
        return rings[0] if len(rings) == 1 else np.concatenate(rings)

    def fill(self, points: Points, color: Color) -> None:
        cv2.fillPoly(self.canvas, [points], color, cv2.LINE_AA, FRACTION_BITS)

    def line(self, points: Points, color: Color, width: float) -> None:
        thickness = max(1, round(width * self.unit))
        cv2.polylines(self.canvas, [points], False, color, thickness, cv2.LINE_AA, FRACTION_BITS)

    def tint(self, points: Points, color: Color, alpha: float) -> None:
        """Fill with a colour that lets (1 - alpha) of what is below shine through."""
        x, y, w, h = cv2.boundingRect(points >> FRACTION_BITS)
        left, top = max(x - 1, 0), max(y - 1, 0)
        below = self.canvas[top : max(y + h + 1, 0), left : max(x + w + 1, 0)]
        if not below.size:
            return
        layer = below.copy()
        cv2.fillPoly(layer, [points - np.array([left, top]) * ONE], color, cv2.LINE_AA, FRACTION_BITS)
        cv2.addWeighted(layer, alpha, below, 1 - alpha, 0, below)

    def dot(self, centre: Floats, radius: float, color: Color) -> None:
        place = (round(centre[0] * ONE), round(centre[1] * ONE))
        cv2.circle(self.canvas, place, round(radius * self.unit * ONE), color, -1, cv2.LINE_AA, FRACTION_BITS)

    def body(self) -> None:
        """Long hair, shoulders, neck and ears: everything behind the face."""
        who = self.identity
        if f"mane{self.look}" in self.parts:
            self.fill(self.ring(f"mane{self.look}"), _times(who.hair, 0.8))
        self._bust()
        if self.hair_style != "shaved":
            skull = f"skull{self.look}"
            above_ears = self.at(skull)[:, 1] < self.at("ear1")[:, 1].mean()
            self.fill(self.ring(skull)[above_ears], _times(who.hair, 0.85))
        if self.hair_style not in ("long", "long_fringe", "bob"):
            for side in (-1, 1):
                self.fill(self.ring(f"ear{side}"), _times(who.skin, 0.86))

    def _bust(self) -> None:
        """Neck and shoulders, which follow a tilted head only a little."""
        face, skull = self.at("face"), self.at(f"skull{self.look}")
        chin, crown = face[len(face) // 2], face[0]
        down = (chin - crown) / max(float(np.linalg.norm(chin - crown)), 1.0) * (0.35, 1)
        axes = np.array([[1.0, 0.0], down]) * self.unit
        base = np.array([0.7 * chin[0] + 0.3 * skull[:, 0].mean(), chin[1]])
        neck = np.array([(-0.48, -0.5), (0.48, -0.5), (0.52, 0.35), (-0.52, 0.35)])
        self.fill(_fix(base + neck @ axes), _times(self.identity.skin, 0.66))
        shoulders = np.array([(-0.5, 0.16), (0, 0.42), (0.5, 0.16), (1.7, 0.5), (1.9, 2), (-1.9, 2), (-1.7, 0.5)])
        self.fill(_fix(base + shoulders @ axes), self.picture.clothes)

    def skin(self) -> None:
        who = self.identity
        self.fill(self.ring("face"), who.skin)
        if "beard" in self.parts:
            alpha = {"stubble": 0.28, "goatee": 0.8, "full": 0.85}[who.beard]
            self.tint(self.ring("beard"), _times(who.hair, 0.9), alpha)
        shade = _times(who.skin, 0.62)
        for (x, y), (_, _, radius) in zip(self.at("spots"), who.spots, strict=True):
            self.dot(np.array([x, y]), radius, mix(shade, (20.0, 30.0, 50.0), 0.3 if radius > 0.022 else 0.0))
        crease = mix(who.skin, _times(who.skin, 0.66), min(1.0, 0.25 + 0.7 * who.age))
        for side in (-1, 1):
            self.line(self.ring(f"fold{side}"), crease, 0.03)

    def eye(self, side: int) -> None:
        who = self.identity
        shade = _times(who.skin, 0.70)
        self.tint(np.concatenate([self.ring(f"lid{side}"), self.ring(f"crease{side}")[::-1]]), shade, 0.35)
        self.line(self.ring(f"crease{side}"), shade, 0.02)
        self._eyeball(side)
        self.line(self.ring(f"under{side}"), mix(who.skin, BLACK, 0.35), 0.015)
        lash = 0.018 + 0.016 * max(who.traits["lash"], 0.0)
        self.line(self.ring(f"lid{side}"), mix(_times(who.hair, 0.4), BLACK, 0.6), lash)

    def _eyeball(self, side: int) -> None:
        """White, iris, pupil and glint, as far as the lids leave them open."""
        who, unit, t = self.identity, self.unit, self.identity.traits
        almond = self.ring(f"lid{side}", f"under{side}")
        x, y, w, h = cv2.boundingRect(almond >> FRACTION_BITS)
        x, y = max(x, 0), max(y, 0)
        below = self.canvas[y : max(y + h + 1, 0), x : max(x + w + 1, 0)]
        if not below.size:
            return
        mask = np.zeros(below.shape[:2], np.uint8)
        cv2.fillPoly(mask, [almond - np.array([x, y]) * ONE], 255, cv2.LINE_8, FRACTION_BITS)
        ball = np.empty_like(below)
        ball[:] = mix(WHITE, who.skin, 0.12)
        gaze = np.array(self.picture.gaze) * (0.6 * t["eye_width"], 0.6 * t["eye_height"])
        centre = self.at(f"iris{side}")[0] + gaze * unit - (x, y)
        discs = [
            (0.0, t["iris"], _times(who.iris, 0.55)),
            (0.0, 0.82 * t["iris"], who.iris),
            (0.0, 0.42 * t["iris"], BLACK),
        ]
        for up, radius, color in (*discs, (0.033, 0.022, WHITE)):
            place = (round((centre[0] - up * unit) * ONE), round((centre[1] - up * unit) * ONE))
            cv2.circle(ball, place, round(radius * unit * ONE), color, -1, cv2.LINE_AA, FRACTION_BITS)
        cv2.copyTo(ball, mask, below)

    def brows(self) -> None:
        for side in (-1, 1):
            self.tint(self.ring(f"brow{side}"), mix(_times(self.identity.hair, 0.75), self.identity.skin, 0.1), 0.85)

    def nose(self) -> None:
        skin, t = self.identity.skin, self.identity.traits
        for side in (-1, 1):
            self.line(self.ring(f"wing{side}"), _times(skin, 0.74), 0.028)
            x, y = self.at(f"nostril{side}")[0]
            box = ((x, y), (2.5 * t["nostril"] * self.unit, 1.5 * t["nostril"] * self.unit), -15.0 * side)
            cv2.ellipse(self.canvas, box, _times(skin, 0.36), -1, cv2.LINE_AA)

    def mouth(self) -> None:
        who = self.identity
        lips = mix(_times(who.skin, 0.80), (70.0, 62.0, 165.0), max(0.38 + 0.16 * who.traits["lip_red"], 0.08))
        self.fill(np.concatenate([self.ring("seam_top"), self.ring("seam_low")[::-1]]), (34.0, 26.0, 62.0))
        gap = float(self.at("seam_low")[6, 1] - self.at("seam_top")[6, 1]) / self.unit
        if gap > 0.03:
            teeth = self.ring("seam_top")[2:-2]
            bite = teeth[::-1] + np.array([0, round(min(0.075, 0.7 * gap) * self.unit * ONE)], np.int32)
            self.fill(np.concatenate([teeth, bite]), _times(WHITE, 0.93))
        self.fill(np.concatenate([self.ring("lip_top"), self.ring("seam_top")[::-1]]), _times(lips, 0.88))
        self.fill(np.concatenate([self.ring("seam_low"), self.ring("lip_low")[::-1]]), lips)
        self.line(self.ring("seam_top"), _times(lips, 0.5), 0.022)
        if "moustache" in self.parts:
            self.tint(self.ring("moustache"), _times(who.hair, 0.9), 0.25 if who.beard == "stubble" else 0.85)

    def hair(self) -> None:
        name, color = f"hair{self.look}", self.identity.hair
        if self.hair_style == "shaved":
            self.tint(self.ring(name), color, 0.38)
            return
        self.fill(self.ring(name), color)
        line, top = self.at(name)[:HAIRLINE_POINTS], self.at(name)[HAIRLINE_POINTS:][::-1]
        top = top[np.linspace(0, len(top) - 1, len(line)).astype(int)]
        middle = 0.45 * top + 0.55 * line - (0, 0.1 * self.unit)
        strands = _fix(np.stack([top, middle, line], 1))  # [strands, 3, 2]
        for k, shine in enumerate((1.15, 0.85, 1.22)):
            cv2.polylines(self.canvas, list(strands[k::3]), False, _times(color, shine), 1, cv2.LINE_AA, FRACTION_BITS)

    def accessory(self) -> None:
        kind, color = self.picture.accessory, self.picture.accessory_color
        if kind == "hat":
            self.fill(self.ring("hat"), color)
            self.line(self.ring("hat")[:13], _times(color, 0.6), 0.07)
        elif kind == "glasses":
            self._glasses(WHITE, 0.1)
        elif kind == "sunglasses":
            self._glasses(_times(color, 0.3), 0.9)
        elif kind == "hand":
            self._hand()

    def _glasses(self, lens: Color, alpha: float) -> None:
        frame = _times(self.picture.accessory_color, 0.5)
        for side in (-1, 1):
            glass = self.ring(f"glass{side}")
            self.tint(glass, lens, alpha)
            self.line(np.concatenate([glass, glass[:1]]), frame, 0.045)
            self.line(self.ring(f"temple{side}"), frame, 0.04)
        self.line(self.ring("bridge"), frame, 0.045)

    def _hand(self) -> None:
        """Four fingers that reach in from one side."""
        u, v = self.picture.accessory_at
        start = np.array([(-0.1 if u < 0.5 else 1.1), 0.75 + 0.4 * v])
        tip = np.array([0.28 + 0.44 * u, 0.55 + 0.35 * v])
        for k in range(4):
            offset = np.array([0.012 * k, 0.075 * (k - 1.5)])
            finger = _fix(np.stack([start + 1.4 * offset, tip + offset]) * self.side)
            self.line(finger, _times(self.identity.skin, 0.78 + 0.04 * (k % 2)), 0.2)

    def paint(self) -> Image:
        self.body()
        self.skin()
        self.nose()
        for side in (-1, 1):
            self.eye(side)
        self.mouth()
        self.brows()
        self.hair()
        self.accessory()
        return self.canvas


def draw_face(shape: HeadShape, identity: Identity, picture: Picture, side: int) -> tuple[Image, Floats]:
    """Flat colours of a picture at `OVERSAMPLING` times the size, and the points of the head on it."""
    painter = Painter(shape, identity, picture, side)
    return painter.paint(), painter.xy
