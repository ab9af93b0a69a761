"""Every hand-crafted loss as a slow loop over samples, written from its paper's formula."""

import math
from typing import NamedTuple

import numpy as np
import torch

from search_space.adaptive import AdaCos, AdaFace, ElasticAM, ElasticArc, MagFace
from search_space.hard_negatives import MVAM, Circle, Curricular, MVArc
from search_space.loss import LossContext
from search_space.margins import AM, Arc, ASoftmax, Combined, NormSoftmax, Softmax, VSoftmax

SEED, STEP = 5, 7


class Point(NamedTuple):
    """A batch as the formulas see it."""

    products: np.ndarray
    c: np.ndarray
    norms: np.ndarray
    class_norms: np.ndarray
    y: list[int]

    @classmethod
    def of(cls, x, W, y):
        norms, class_norms = np.linalg.norm(x, axis=1), np.linalg.norm(W, axis=1)
        return cls(x @ W.T, x @ W.T / norms[:, None] / class_norms, norms, class_norms, list(y))

    def others(self, i):
        return [j for j in range(self.c.shape[1]) if j != self.y[i]]

    def own(self, i):
        return self.c[i, self.y[i]]


def arc(c, m):
    theta = math.acos(c)
    return math.cos(theta + m) if theta <= math.pi - m else c - m * math.sin(m)


def psi(theta):
    k = 0
    while theta > (k + 1) * math.pi:
        k += 1
    return (-1) ** k * math.cos(theta) - 2 * k


def softmax(loss, now, frozen, i):
    return now.products[i, now.y[i]], [now.products[i, j] for j in now.others(i)]


def norm_softmax(loss, now, frozen, i):
    return loss.scale * now.own(i), [loss.scale * now.c[i, j] for j in now.others(i)]


def a_softmax(loss, now, frozen, i):
    weight = max(loss.lambda_min, loss.lambda_max * (1 + loss.gamma * STEP) ** -loss.power)
    f = (weight * now.own(i) + psi(loss.margin * math.acos(now.own(i)))) / (1 + weight)
    return now.norms[i] * f, [now.norms[i] * now.c[i, j] for j in now.others(i)]


def v_softmax(loss, now, frozen, i):
    own, others = softmax(loss, now, frozen, i)
    return own, [*others, now.class_norms[now.y[i]] * now.norms[i]]


def cosine_form(f):
    """A loss that only changes the target cosine."""

    def slow(loss, now, frozen, i):
        return loss.scale * f(loss, now, frozen, i), [loss.scale * now.c[i, j] for j in now.others(i)]

    return slow


def support_vector_guided(f):
    def slow(loss, now, frozen, i):
        logits = []
        for j in now.others(i):
            c, hard = now.c[i, j], now.c[i, j] > f(loss, now.own(i))
            h = (loss.t * (c + 1) if loss.adaptive else loss.t) if hard else 0
            logits.append(loss.scale * (c + h))
        return loss.scale * f(loss, now.own(i)), logits

    return slow


def curricular(loss, now, frozen, i):
    t = (1 - loss.momentum) * np.mean([frozen.own(k) for k in range(len(frozen.y))])
    f = arc(now.own(i), loss.margin)
    return loss.scale * f, [loss.scale * (c if c <= f else c * (t + c)) for c in now.c[i, now.others(i)]]


def adaface(loss, now, frozen, i):
    lengths = frozen.norms.clip(0.001, 100)
    spread = lengths.std(ddof=1) if len(lengths) > 1 else 0.0
    mean = loss.momentum * 20 + (1 - loss.momentum) * lengths.mean()
    std = loss.momentum * 100 + (1 - loss.momentum) * spread
    z = min(max(loss.h * (lengths[i] - mean) / (std + 0.001), -1), 1)
    theta = min(max(math.acos(now.own(i)) - loss.margin * z, 0.001), math.pi - 0.001)
    return math.cos(theta) - (loss.margin + loss.margin * z)


def magface(loss, now, frozen, i):
    r = min(max(now.norms[i], loss.l_a), loss.u_a)
    return arc(now.own(i), (loss.u_m - loss.l_m) / (loss.u_a - loss.l_a) * (r - loss.l_a) + loss.l_m)


def drawn(loss, num, high):
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([SEED, 0x6D617267, STEP])))
    return np.clip(loss.margin + loss.std * generator.standard_normal(num), 0, high)


def adacos(loss, now, frozen, i):
    s = math.sqrt(2) * math.log(now.c.shape[1] - 1)
    if loss.dynamic:
        b = np.mean([sum(math.exp(s * frozen.c[k, j]) for j in frozen.others(k)) for k in range(len(frozen.y))])
        angles = sorted(math.acos(frozen.own(k)) for k in range(len(frozen.y)))
        s = math.log(b) / math.cos(min(math.pi / 4, angles[(len(angles) - 1) // 2]))
    return s * now.own(i), [s * now.c[i, j] for j in now.others(i)]


def circle(loss, now, frozen, i):
    m = loss.margin
    own = max(1 + m - frozen.own(i), 0) * (now.own(i) - (1 - m))
    others = [max(frozen.c[i, j] + m, 0) * (now.c[i, j] - m) for j in now.others(i)]
    return loss.scale * own, [loss.scale * other for other in others]


REFERENCES = {
    "softmax": softmax,
    "norm_softmax": norm_softmax,
    "a_softmax": a_softmax,
    "v_softmax": v_softmax,
    "arc": cosine_form(lambda loss, now, frozen, i: arc(now.own(i), loss.margin)),
    "am": cosine_form(lambda loss, now, frozen, i: now.own(i) - loss.margin),
    "mv_am": support_vector_guided(lambda loss, c: c - loss.margin),
    "mv_arc": support_vector_guided(lambda loss, c: arc(c, loss.margin)),
    "combined": cosine_form(
        lambda loss, now, frozen, i: psi(loss.m1 * math.acos(now.own(i)) + loss.m2) - loss.m3,
    ),
    "curricular": curricular,
    "adaface": cosine_form(adaface),
    "magface": cosine_form(magface),
    "elastic_arc": cosine_form(lambda loss, now, frozen, i: arc(now.own(i), drawn(loss, len(now.y), 1.57)[i])),
    "elastic_am": cosine_form(lambda loss, now, frozen, i: now.own(i) - drawn(loss, len(now.y), 2)[i]),
    "adacos": adacos,
    "circle": circle,
}


def slow_loss(loss, now, frozen):
    """[batch]; what passes no gradient is taken from `frozen`."""
    values = []
    for i in range(len(now.y)):
        own, others = REFERENCES[loss.name](loss, now, frozen, i)
        value = -own + math.log(math.exp(own) + sum(math.exp(other) for other in others))
        if loss.name == "magface":
            r = min(max(now.norms[i], loss.l_a), loss.u_a)
            value += loss.lambda_g * (1 / r + r / loss.u_a**2)
        values.append(value)
    return np.array(values)


VARIANTS = [
    Softmax(),
    NormSoftmax(scale=8),
    ASoftmax(),
    ASoftmax(margin=2.5, lambda_min=0.5, lambda_max=0),
    VSoftmax(),
    Arc(scale=8),
    Arc(scale=8, margin=1.3),
    AM(scale=8),
    MVAM(scale=8),
    MVAM(scale=8, margin=0.1, t=0.4, adaptive=False),
    MVArc(scale=8),
    MVArc(scale=8, margin=0.2, t=0.4, adaptive=False),
    Combined(scale=8),
    Combined(scale=8, m1=2.2, m2=0.4, m3=0.1),
    Curricular(scale=8, momentum=0.3),
    AdaFace(scale=8, momentum=0.1, h=0.8),
    AdaFace(scale=8, momentum=0, h=1.0),
    MagFace(scale=8, l_a=1.75, u_a=2.3, lambda_g=3),
    ElasticArc(scale=8, std=0.2),
    ElasticAM(scale=8, std=0.2),
    AdaCos(),
    AdaCos(dynamic=False),
    Circle(scale=8),
    Circle(scale=8, margin=0.6),
]


def label(loss):
    return ",".join([loss.name, *(f"{k}={v:g}" for k, v in loss.parameters().items())])


def made(batch, classes, dim=5, seed=0):
    """Embeddings, class weights and targets; some samples lie near their class, one nearly opposite to it."""
    generator = np.random.default_rng(seed)
    W = generator.standard_normal((classes, dim))
    y = generator.integers(classes, size=batch)
    pull = np.linspace(-3, 2, batch)[:, None] if batch > 1 else 1.0
    return 0.7 * generator.standard_normal((batch, dim)) + pull * W[y] / 2, W, y


def context_of(loss, norms, target_norms):
    state = {key: value.double() for key, value in loss.initial_state().items()}
    return LossContext(norms=norms, target_norms=target_norms, step=STEP, seed=SEED, state=state)


def fast_loss(loss, x, W, y):
    """[batch], from embeddings and weights as a trainer would go about it."""
    norms, class_norms = x.norm(dim=1), W.norm(dim=1)
    left = x / norms[:, None] if loss.normalise_embedding else x
    right = W / class_norms[:, None] if loss.normalise_weight else W
    context = context_of(loss, norms, class_norms[y]) if loss.needs_context else None
    return loss.per_sample(left @ right.T, torch.from_numpy(y), context)
