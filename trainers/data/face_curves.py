"""The curves that make up one person's head: outline, hair, eyes, brows, nose, mouth, beard, what may be worn."""

import numpy as np

from trainers.data.face_shape import Floats, HeadBuilder, HeadShape, smooth
from trainers.data.face_traits import Identity

# Right half of the hairline of each style from the middle outwards, in head units above (-) the person's own hairline.
HAIRLINES: dict[str, tuple[float, ...]] = {
    "shaved": (0.02, 0.02, 0.06, 0.30), "short": (0.0, 0.0, 0.05, 0.42), "receding": (-0.02, -0.22, -0.16, 0.32),
    "side_part": (-0.02, 0.06, 0.16, 0.50), "fringe": (0.30, 0.30, 0.30, 0.55), "long": (-0.10, 0.02, 0.26, 0.80),
    "curly": (0.04, 0.06, 0.16, 0.60), "bob": (-0.06, 0.06, 0.30, 0.85), "long_fringe": (0.33, 0.33, 0.36, 0.85),
    "tied": (-0.04, -0.02, 0.04, 0.36),
}  # fmt: skip
VOLUMES = {"shaved": 0.02, "receding": 0.05, "curly": 0.30, "tied": 0.04}


def _outline(t: dict[str, float]) -> Floats:
    """[controls, 2] half outline of the head from the crown down the right side to the chin."""
    w, jaw, square, chin = t["head_width"], t["jaw_width"], t["jaw_square"], t["chin_length"]
    return np.array([
        (0, -1.13), (0.46 * w, -1.05), (0.80 * w, -0.80), (0.98 * w, -0.38), (w, 0.02),
        (0.97 * w + t["cheekbone"], 0.40), (jaw + 0.07 + square, 0.80), (0.62 * jaw + 0.6 * square + 0.06, 1.08),
        (t["chin_width"], chin - 0.035), (0, chin),
    ])  # fmt: skip


def _mirror(half: Floats) -> Floats:
    """Closed ring from a half outline whose first and last point lie on the middle line."""
    left = half[-2:0:-1] * (-1, 1)
    return np.concatenate([half, left])


def _head(b: HeadBuilder) -> None:
    ring = _mirror(_outline(b.t))
    curve = smooth(ring, 4, closed=True)
    low = np.clip((curve[:, 1] - 0.3) / 1.0, 0, 1)
    jaw_drop = np.column_stack([-0.02 * curve[:, 0] * low, 0.13 * low**2])
    b.add("face", curve, z=0.05 + 0.42 * low**1.5, rim=True, open=jaw_drop)
    for side in (-1, 1):
        size, out = b.t["ear_size"], b.t["ear_out"]
        ear = np.array([(0, -0.8), (0.45, -1.0), (0.9, -0.6), (0.8, 0.1), (0.45, 0.9), (0, 0.9)])
        x = 0.90 * b.t["head_width"] + ear[:, 0] * (0.06 + 1.1 * out)
        b.add(f"ear{side}", smooth(np.column_stack([side * x, 0.18 + size * ear[:, 1]])), z=-0.32, rim=True)


def _skull(b: HeadBuilder, style: str, look: int) -> None:
    """The outline of the head with the hair on it."""
    curve = smooth(_mirror(_outline(b.t)), 4, closed=True)
    volume = b.t["hair_volume"] * (0.6 if style == "short" else 1.0)
    volume = VOLUMES.get(style, max(volume, 0.05))
    angle = np.linspace(0, 2 * np.pi, len(curve))
    bumps = 0.035 * np.sin(13 * angle) if style == "curly" else 0.0 * angle
    b.add(f"skull{look}", (curve - (0, 0.1)) * (1 + volume + bumps)[:, None] + (0, 0.1), z=-0.25, rim=True)


def _long_hair(b: HeadBuilder, style: str, look: int) -> None:
    low = {"long": 1.9, "long_fringe": 1.9, "bob": 1.15, "curly": 0.9}.get(style)
    if low is None:
        return
    w = b.t["head_width"] + 0.10 + b.t["hair_volume"] + (0.15 if style == "curly" else 0)
    half = np.array([(0, -1.2), (0.75 * w, -0.95), (w, -0.3), (1.03 * w, 0.5), (1.02 * w, low - 0.15), (0.7 * w, low)])
    half = np.concatenate([half, [(0.0, low)]])
    b.add(f"mane{look}", smooth(_mirror(half), 3, closed=True), z=-0.4, rim=True)


def _front_hair(b: HeadBuilder, style: str, look: int) -> None:
    t = b.t
    w, line = t["head_width"], t["hairline"]
    right = np.array(HAIRLINES[style])
    x = np.array([-1.0, -0.78, -0.42, 0.0, 0.42, 0.78, 1.0]) * w
    y = line + np.concatenate([right[:0:-1], right])
    y += t["hair_skew"] * (0.16 if style in ("side_part", "fringe") else 0.03) * x
    inner = smooth(np.column_stack([x, y]), 4)
    top = smooth(_mirror(_outline(t)), 4, closed=True)
    top = top[top[:, 1] < y.max() - 0.1]
    order = np.argsort(np.arctan2(top[:, 0], -top[:, 1]))[::-1]
    volume = VOLUMES.get(style, max(t["hair_volume"], 0.05))
    bumps = 0.02 * np.sin(np.arange(len(top)) * 1.9) if style == "curly" else np.zeros(len(top))
    outer = (top[order] - (0, 0.1)) * (1 + 0.8 * volume + bumps)[:, None] + (0, 0.1)
    depth = np.concatenate([0.75 * b.depth(inner[:, 0], inner[:, 1]) - 0.1, np.full(len(outer), -0.1)])
    b.add(f"hair{look}", np.concatenate([inner, outer]), z=depth, rim=True)


def _eyes(b: HeadBuilder) -> None:
    t = b.t
    u = np.linspace(-1, 1, 9)
    for side in (-1, 1):
        lift = -t["eye_tilt"] * u * side
        arch = t["eye_height"] * np.maximum(1 - u**2, 0) ** t["eye_round"]
        x = side * t["eye_gap"] + u * t["eye_width"]
        top, bottom = t["eye_y"] + lift - arch, t["eye_y"] + lift + 0.62 * arch
        still = np.zeros_like(u)
        close = np.column_stack([still, 1.35 * arch])
        squint = np.column_stack([still, -0.35 * arch])
        widen = np.column_stack([still, -0.15 * arch])
        b.add(f"lid{side}", np.column_stack([x, top]), close=close, lift=widen)
        b.add(f"under{side}", np.column_stack([x, bottom])[::-1], smile=squint)
        crease = top - t["crease"] * (0.5 + 0.5 * (1 - u**2))
        b.add(f"crease{side}", np.column_stack([x, crease]), close=0.4 * close)
        b.add(f"iris{side}", np.array([[side * t["eye_gap"], t["eye_y"] - 0.08 * t["eye_height"]]]))


def _brows(b: HeadBuilder) -> None:
    t = b.t
    u = np.linspace(0, 1, 7)  # from the nose outwards
    for side in (-1, 1):
        x = side * (t["eye_gap"] - 0.24 + t["brow_inner"] + u * 2 * t["brow_width"])
        y = t["eye_y"] - t["brow_gap"] - t["brow_tilt"] * (u - 0.4) - t["brow_arch"] * np.sin(np.pi * u**1.3)
        thick = t["brow_thick"] * np.array([0.7, 1.0, 1.0, 0.9, 0.75, 0.5, 0.15])
        ring = np.concatenate([np.column_stack([x, y - thick / 2]), np.column_stack([x, y + thick / 2])[::-1]])
        way = np.concatenate([u, u[::-1]])
        up = np.column_stack([0 * way, np.full(len(way), -0.085)])
        frown = np.column_stack([-side * 0.05 * (1 - way), 0.08 * (1 - way) ** 2])
        b.add(f"brow{side}", ring, lift=up, frown=frown)


def _nose(b: HeadBuilder) -> None:
    t = b.t
    end, wide, high = t["eye_y"] + t["nose_length"], t["nose_width"], t["nose_height"]
    y = np.linspace(t["eye_y"] - 0.05, end, 6)
    ridge = np.array([0.08, 0.22, 0.45, 0.72, 1.0, 0.75]) * high + np.array([0, 0, 1, 1, 0, 0]) * t["nose_hook"]
    xy = np.column_stack([np.zeros(6), y])
    b.add("ridge", xy, z=b.depth(xy[:, 0], xy[:, 1]) + ridge)
    for side in (-1, 1):
        alar = np.array([(0.75, -0.19), (1.0, -0.11), (1.05, -0.02), (0.8, 0.05), (0.55, 0.02)])
        wing = np.column_stack([side * wide * alar[:, 0], end + alar[:, 1]])
        smile = np.tile([side * 0.02, -0.01], (len(alar), 1))
        b.add(f"wing{side}", smooth(wing, 3), out=0.14, smile=np.repeat(smile, 3, 0)[:13])
        b.add(f"nostril{side}", np.array([[side * 0.5 * wide, end + 0.015]]), out=0.22)


def _mouth(b: HeadBuilder) -> None:
    t = b.t
    y, wide = t["mouth_y"], t["mouth_width"]
    u = np.linspace(-1, 1, 13)
    bow = np.maximum(1 - np.abs(u) ** 1.7, 0)
    seam = y + t["mouth_curve"] * (1 - 2 * u**2) + 0.006 * np.cos(3 * np.pi * u)
    cupid = t["cupid"] * np.exp(-((u / 0.14) ** 2))
    corner = np.abs(u) ** 1.5
    smile = np.column_stack([0.085 * u, -0.10 * corner + 0.012])
    lines = {  # the curve, and how far its middle drops when the mouth opens
        "lip_top": (seam - t["upper_lip"] * bow**0.8 + cupid, 0.0),
        "seam_top": (seam, 0.02),
        "seam_low": (seam, 0.155),
        "lip_low": (seam + t["lower_lip"] * bow, 0.165),
    }
    for name, (line, drop) in lines.items():
        lower = np.column_stack([-0.04 * u, drop * np.maximum(1 - u**2, 0) ** 0.6 + 0.03])
        b.add(name, np.column_stack([u * wide, line]), out=0.06, smile=smile, open=lower)
    fold = smooth(np.array([(0.24, t["nose_length"] - 0.06), (0.37, 0.66), (0.45, 0.86), (0.44, 1.0)]), 3)
    for side in (-1, 1):
        out = np.tile([side * 0.035, -0.01], (len(fold), 1))
        b.add(f"fold{side}", fold * (side, 1), smile=out)


def _full_beard(b: HeadBuilder, low: Floats) -> None:
    t, y = b.t, b.t["mouth_y"]
    jaw = smooth(_mirror(_outline(t)), 4, closed=True)
    jaw = jaw[jaw[:, 1] > 0.42]
    jaw = jaw[np.argsort(np.arctan2(jaw[:, 0], jaw[:, 1] - 0.4))] * (1.02, 1.03)
    half = np.array([(0.9, 0.45), (0.66, 0.72), (0.40, y - 0.13), (0, y - 0.16)])
    cheek = np.concatenate([half, half[-2::-1] * (-1, 1)])
    cheek[:, 0] *= t["head_width"]
    edge = smooth(cheek, 3)
    ring = np.concatenate([jaw, edge])
    z = np.concatenate([0.05 + 0.42 * np.clip(jaw[:, 1] - 0.3, 0, 1) ** 1.5, 0.8 * b.depth(edge[:, 0], edge[:, 1])])
    drop = np.concatenate([np.clip(jaw[:, 1:] - 0.3, 0, 1) ** 2, np.zeros((len(edge), 1))]) * low
    b.add("beard", ring, z=z, rim=True, open=drop)


def _beard(b: HeadBuilder) -> None:
    t, kind = b.t, b.identity.beard
    y, chin, wide = t["mouth_y"], t["chin_length"], t["mouth_width"]
    low = np.array([[0, 0.13]])  # how far the chin drops when the mouth opens
    if kind in ("stubble", "full"):
        _full_beard(b, low)
    if kind == "goatee":
        half = np.array([(0, y + 0.16), (0.16, y + 0.13), (0.25, y + 0.25), (0.2, chin - 0.04), (0, chin + 0.03)])
        ring = smooth(_mirror(half), 3, closed=True)
        b.add("beard", ring, out=0.05, open=np.repeat(low, len(ring), 0))
    if kind != "none":
        top = y - t["upper_lip"] - 0.11
        low_edge = [(1.08 * wide, y + 0.05), (0.8 * wide, y - 0.02), (0, y - t["upper_lip"] * 0.7)]
        half = np.array([(0, top), (0.7 * wide, top + 0.03), *low_edge])
        b.add("moustache", smooth(_mirror(half), 3, closed=True), out=0.08)


def _props(b: HeadBuilder) -> None:
    """Where glasses, hat and spots would sit."""
    t = b.t
    a = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    corner = np.abs(np.cos(a)) ** 0.6 * np.sign(np.cos(a)), np.abs(np.sin(a)) ** 0.7 * np.sign(np.sin(a))
    for side in (-1, 1):
        ring = np.column_stack([side * 0.43 + 0.315 * corner[0], 0.06 + 0.235 * corner[1]])
        b.add(f"glass{side}", ring, z=1.0)
        arm = np.array([[side * 0.74, 0.0], [side * t["head_width"], 0.02]])
        b.add(f"temple{side}", arm, z=np.array([1.0, -0.1]))
    b.add("bridge", np.array([[-0.12, 0.0], [0.0, -0.03], [0.12, 0.0]]), z=1.05)
    w = t["head_width"] + 0.07
    brim = [(-w, -0.46), (-0.5 * w, -0.60), (0, -0.64), (0.5 * w, -0.60), (w, -0.46)]
    crown = np.array([*brim, (0.93 * w, -0.95), (0.5 * w, -1.34), (-0.5 * w, -1.34), (-0.93 * w, -0.95)])
    b.add("hat", smooth(crown, 3, closed=True), z=np.repeat([0.1, 0.6, 0.75, 0.6, 0.1, 0, 0, 0, 0], 3), rim=True)
    b.add("spots", b.identity.spots[:, :2].reshape(-1, 2))


def _blobs(b: HeadBuilder) -> None:
    """Soft bumps and hollows of the skin, and where it is redder or darker."""
    t = b.t
    eye, gap, end, mouth, chin = t["eye_y"], t["eye_gap"], t["eye_y"] + t["nose_length"], t["mouth_y"], t["chin_length"]
    bridge, high = 0.6 * t["nose_bridge"], t["nose_height"]
    red, ring = min(0.2, max(0.0, 0.09 + 0.06 * t["blush"])), max(0.0, 0.06 + 0.06 * t["under_eye"])
    ridge = [
        (eye + k * t["nose_length"] / 4, 0.2 * k * high, bridge + 0.012 * k, 0.11, (0.1 + 0.07 * k) * high, 0, 0)
        for k in range(4)
    ]
    middle = [  # y, z above the skin, width, height, relief, redness, darkness
        (end - 0.03, high, 0.75 * t["nose_width"], 0.085, 0.42 * high, 0.7 * red, 0),
        (end + 0.07, 0.5 * high, t["nose_width"], 0.05, -0.10, 0, 0),
        (eye - t["brow_gap"] - 0.25, 0, 0.45, 0.22, 0.05, 0, 0),
        (mouth - 0.1, 0, 0.24, 0.06, 0.05, 0, 0),
        (mouth + 0.04, 0, 0.2, 0.05, 0.06, 0, 0),
        (mouth + 0.17, 0, 0.22, 0.05, -0.06, 0, 0),
        (chin - 0.14, 0, 0.2, 0.12, 0.10, 0, 0),
    ]
    paired = [  # x, y, width, height, relief, redness, darkness
        (gap, eye, 0.17, 0.10, -0.05 - 0.012 * t["socket_deep"], 0, 0),
        (gap, eye, 0.10, 0.06, 0.035, 0, 0),
        (gap, eye - t["brow_gap"], 0.22, 0.07, 0.045, 0, 0),
        (gap, eye - 0.12, 0.2, 0.08, 0, 0, 0.10),
        (gap, eye + 0.13, 0.17, 0.06, 0, 0, ring),
        (gap + 0.1, eye + 0.45, 0.24, 0.18, 0.055 + 0.025 * t["cheek_full"], red, 0),
    ]
    central = np.array(ridge + middle)
    sided = np.array([(side * x, *rest) for side in (-1, 1) for x, *rest in paired])
    xy = np.concatenate([np.column_stack([np.zeros(len(central)), central[:, 0]]), sided[:, :2]])
    b.add("blobs", xy, z=b.depth(xy[:, 0], xy[:, 1]) + np.concatenate([central[:, 1], np.zeros(len(sided))]))
    b.blobs = np.concatenate([central[:, 2:], sided[:, 2:]])


def head_shape(identity: Identity) -> HeadShape:
    """All curves of a person, expression neutral; `hair0`, `mane0`, `skull0`: usual hair style, `hair1` ...: other."""
    b = HeadBuilder(identity)
    for look, style in enumerate(identity.hair_styles):
        for hair in (_skull, _long_hair, _front_hair):
            hair(b, style, look)
    for part in (_head, _eyes, _brows, _nose, _mouth, _beard, _props, _blobs):
        part(b)
    return b.finish()
