"""Losses by name: configuration, stored form, declared grids."""

import json
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest

from search_space.config import LossConfig
from search_space.errors import UserError
from search_space.loss import Loss, loss_from_dict, register_loss
from search_space.margins import AM, LOSSES, MVAM, AdaCos, Arc, Circle, Curricular, NormSoftmax, grid_of, make_loss
from search_space.spaces import LossParameters

TAKEN = {name: set(cls.takes()) for name, cls in LOSSES.items()}


def test_the_table_has_every_loss_of_the_issue():
    names = "softmax norm_softmax a_softmax v_softmax arc am mv_am mv_arc combined curricular adaface magface"
    assert set(LOSSES) == {*names.split(), "elastic_arc", "elastic_am", "adacos", "circle"}
    assert all(cls.name == name for name, cls in LOSSES.items())


def test_every_parameter_is_a_setting_and_every_setting_a_parameter():
    assert set().union(*TAKEN.values()) == {f.name for f in fields(LossConfig)} - {"name", "parameters"}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in LOSSES for key in sorted(TAKEN[name])])
def test_every_setting_takes_effect(name, key):
    default = getattr(make_loss(LossConfig(name=name), scale=32.0), key)
    value = not default if isinstance(default, bool) else default * 1.01
    loss = make_loss(LossConfig(name=name, **{key: value}), scale=32.0)
    assert getattr(loss, key) == value
    assert loss.parameters()[key] == value


@pytest.mark.parametrize(
    ("name", "key"), [(n, k) for n in LOSSES for k in sorted(set().union(*TAKEN.values()) - TAKEN[n])]
)
def test_a_setting_of_another_loss_is_refused(name, key):
    with pytest.raises(UserError, match=f"^loss {key} does not apply to {name}, which takes .*; got 0.5$"):
        make_loss(LossConfig(name=name, **{key: 0.5}), scale=32.0)


def test_what_a_loss_takes_is_said():
    with pytest.raises(UserError, match="^loss t does not apply to am, which takes scale, margin; got 0.2$"):
        make_loss(LossConfig(name="am", t=0.2), scale=32.0)
    with pytest.raises(UserError, match="^loss scale does not apply to softmax, which takes no parameters; got 32.0$"):
        make_loss(LossConfig(name="softmax", scale=32.0), scale=32.0)


def test_the_scale_is_the_given_one_or_the_spaces_or_the_losss_own():
    assert make_loss(LossConfig(name="arc"), scale=48.0) == Arc(scale=48.0, margin=0.5)
    assert make_loss(LossConfig(name="arc", scale=20.0), scale=48.0) == Arc(scale=20.0)
    assert make_loss(LossConfig(name="circle"), scale=48.0) == Circle(scale=256.0)
    for name in ("softmax", "a_softmax", "v_softmax"):
        assert make_loss(LossConfig(name=name), scale=48.0).scale == 1


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("ArcFace", "arc"), ("cosface", "am"), ("magfase", "magface"), ("softmx", "softmax")],
)
def test_an_unknown_name_gets_the_nearest(name, nearest):
    law = f"^loss name must be one of softmax, norm_softmax, .*circle, got '{name}'; did you mean {nearest}"
    with pytest.raises(UserError, match=law):
        make_loss(LossConfig(name=name), scale=32.0)
    with pytest.raises(UserError, match=law):
        grid_of(name)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LossConfig(name="arc", margin=3.0), r"^loss margin of arc must be in \[0, 1.57\], radians, got 3.0$"),
        (LossConfig(name="arc", margin=float("nan")), r"loss margin of arc .*, got nan$"),
        (LossConfig(name="am", margin=-0.1), r"^loss margin of am must be in \[0, 2\], cosines, got -0.1$"),
        (LossConfig(name="am", scale=0.0), r"^loss scale of am must be in \(0, 350\], got 0.0$"),
        (LossConfig(name="circle", scale=351.0), r"^loss scale of circle must be in \(0, 350\], got 351.0$"),
        (LossConfig(name="a_softmax", margin=0.5), r"^loss margin of a_softmax must be in \[1, 10\], times the angle"),
        (LossConfig(name="curricular", momentum=1.5), r"^loss momentum of curricular must be in \[0, 1\], got 1.5$"),
        (LossConfig(name="magface", l_a=0.0), r"^loss l_a of magface must be in \(0, 1e\+06\], got 0.0$"),
        (LossConfig(name="magface", l_a=200.0), r"^loss l_a of magface must be less than u_a, got \(200.0, 110.0\)$"),
        (LossConfig(name="magface", u_m=0.1), r"^loss l_m of magface must not exceed u_m, got \(0.45, 0.1\)$"),
        (LossConfig(name="mv_am", t=-1.0), r"^loss t of mv_am must be in \[0, 2\], cosines, got -1.0$"),
        (LossConfig(name="mv_am", adaptive=1), r"^loss adaptive of mv_am must be true or false, got 1$"),  # type: ignore
    ],
)
def test_a_value_out_of_range(config, message):
    with pytest.raises(UserError, match=message):
        make_loss(config, scale=32.0)


@pytest.mark.parametrize("name", LOSSES)
def test_every_point_of_a_grid_is_a_loss(name):
    points = grid_of(name)
    losses = [make_loss(LossConfig(name=name, **point), scale=32.0) for point in points]
    assert len(set(losses)) == len(points)
    for loss, point in zip(losses, points, strict=True):
        assert all(getattr(loss, key) == value for key, value in point.items())


def test_grids():
    assert grid_of("am") == [{"margin": m} for m in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert grid_of("combined")[-1] == {"m2": 0.3, "m3": 0.2}  # as published
    assert grid_of("softmax") == grid_of("v_softmax") == [{}]
    assert {len(grid_of(name)) for name in LOSSES} == {1, 2, 4, 5}


ALL = [
    *(cls() for cls in LOSSES.values()),
    LossParameters(scale=48.0, shift=(0.1, 1 / 3)),
    MVAM(t=1 / 3, adaptive=False),
]


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_the_stored_form_gives_the_same_loss_back(loss):
    values = json.loads(json.dumps(loss.to_dict()))
    assert values["loss"] == loss.name
    back = loss_from_dict(values)
    assert back == loss
    assert type(back) is type(loss)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"loss": "ark", "scale": 32.0},
            r"^stored loss must be one of .*, got 'ark'; did you mean arc",
        ),
        ({"scale": 32.0}, "^stored loss must be one of .*, got None$"),
        ({"loss": "arc", "wobble": 1.0}, "^stored loss arc must have parameters that .* accepts: .*'wobble'"),
        ({"loss": "arc", "margin": 9.0}, "^loss margin of arc must be in"),
        ({"loss": "arc", "margin": "big"}, "^stored loss arc must have parameters that .* accepts: "),
        ({"loss": "modulated", "shift": [-1.0]}, "^stored loss modulated must have .*shift >= 0"),
        ({"loss": "softmax", "scale": 32.0}, r"^loss scale of softmax must be in \[1, 1\], got 32.0$"),
    ],
)
def test_a_stored_loss_that_this_version_cannot_make(values, message):
    with pytest.raises(UserError, match=message):
        loss_from_dict(values)


def test_names_are_unique():
    assert register_loss(Arc) is Arc  # again: nothing happens

    @dataclass(frozen=True, kw_only=True)
    class Impostor(Loss):
        name: ClassVar[str] = "arc"

    with pytest.raises(ValueError, match="loss name 'arc' is taken by Arc"):
        register_loss(Impostor)


def test_initial_states_are_fresh():
    for loss in (Curricular(), AdaCos()):
        [key] = loss.initial_state()
        loss.initial_state()[key].add_(1)
        assert loss.initial_state()[key] == 0
    assert AdaCos(dynamic=False).initial_state() == NormSoftmax().initial_state() == {}


def test_margins_are_reported_where_the_loss_is_of_that_form():
    assert AM(scale=32.0, margin=0.25).margins == (0.25,)
    assert NormSoftmax().margins == (0.0,)
    assert Arc().margins == Arc().a == ()
