"""Figures: what is drawn is what was measured."""

import logging
import math
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.container import ErrorbarContainer
from scipy import stats

from lfs.figures import SEARCH_COLOURS, comparison_figure, figure_bytes, loss_figure
from search_space.config import LossConfig
from search_space.errors import UserError
from search_space.loss import Loss
from search_space.margins import make_loss
from search_space.spaces import LossParameters
from search_space.unified import Unified
from tests.lfs.comparison_cells import TAR, cell, diverged, small_frame


def panels_of(*args: Any, **more: Any) -> list[Axes]:
    return comparison_figure(*args, **more).axes


def curves(panel: Axes) -> list[tuple[list[float], list[float], list[float]]]:
    """x, mean and half the length of the bar of each curve, in the order drawn."""
    found = []
    for container in panel.containers:
        assert isinstance(container, ErrorbarContainer)
        line, _, [bars] = container.lines
        ends = [segment[:, 1] if len(segment) else [math.nan] * 2 for segment in bars.get_segments()]
        found.append((list(line.get_xdata()), list(line.get_ydata()), [(b - a) / 2 for a, b in ends]))  # type: ignore[arg-type]
    return found


def test_a_panel_for_each_metric_with_its_unit() -> None:
    first, second = panels_of(small_frame(), ["accuracy", TAR])
    assert first.get_ylabel() == "accuracy [%]"
    assert second.get_ylabel() == "all pairs\nTAR@FAR=1e-3 [%]"


def test_curves_are_means_and_standard_errors_over_the_grid() -> None:
    [panel] = panels_of(small_frame(), ["accuracy"])
    softmax, am, search = curves(panel)
    at_02, at_01 = [80, 82, 86], [85, 85.01, 85.09]
    assert am[1] == pytest.approx([fmean(at_01), fmean(at_02)])
    assert am[2] == pytest.approx([stdev(v) / 3**0.5 for v in (at_01, at_02)])
    assert am[0][1] - am[0][0] == 1
    assert [len(x) for x, _, _ in (softmax, am, search)] == [1, 2, 1]
    assert max(softmax[0]) < min(am[0])
    assert max(am[0]) < min(search[0])
    assert [t.get_text() for t in panel.get_xticklabels()] == ["0.1", "0.2"]


def test_a_search_runs_across_the_panel_with_its_error() -> None:
    [panel] = panels_of(small_frame(), ["accuracy"])
    mean, error = fmean([90, 91, 93]), stdev([90, 91, 93]) / 3**0.5
    [line] = [line for line in panel.lines if list(line.get_xdata()) == [0, 1]]
    assert list(line.get_ydata()) == pytest.approx([mean, mean])
    assert line.get_color() == SEARCH_COLOURS["search"]
    [band] = panel.patches
    assert band.get_extents().transformed(panel.transData.inverted()).intervaly == pytest.approx(
        [mean - error, mean + error]
    )


def test_a_ring_is_what_the_reward_chose_and_a_diamond_the_best_of_b() -> None:
    [panel] = panels_of(small_frame(), ["accuracy"], population=2)
    [ring] = [line for line in panel.lines if line.get_markersize() == 9]
    assert list(ring.get_ydata()) == pytest.approx([fmean([80, 82, 86])])
    diamonds = [c for c in panel.containers if c.lines[0].get_marker() == "D"]  # type: ignore[attr-defined]
    assert len(diamonds) == 1  # softmax has fewer than 2 trainings
    assert not [c for c in panels_of(small_frame(), ["accuracy"])[0].containers if c.lines[0].get_marker() == "D"]  # type: ignore[attr-defined]


def test_the_search_is_tested_against_the_best_fixed_margin() -> None:
    [panel] = panels_of(small_frame(), ["accuracy"])
    search, am = np.array([90, 91, 93.0]), np.array([85, 85.01, 85.09])
    difference, p = search - am, stats.ttest_rel(search, am).pvalue
    expected = f"{difference.mean():+.2f} ± {difference.std(ddof=1) / 3**0.5:.2f} (paired, p = {p:.3f})".replace(
        "0.", "."
    )
    assert panel.get_title("right").replace("0.", ".") == f"Search-Softmax − AM-Softmax at .1: {expected}"


def test_one_seed_has_no_error_and_says_so() -> None:
    frame = small_frame()
    figure = comparison_figure(frame[frame["seed"] == 0], ["accuracy"], population=2)
    assert figure.axes[0].get_title("right") == "Search-Softmax − AM-Softmax at 0.1: +5.00 (1 seed)"
    assert not figure.axes[0].patches
    assert figure_bytes(figure, "a.png")


def test_without_a_search_there_is_no_verdict() -> None:
    frame = small_frame()
    assert panels_of(frame[~frame["searched"]], ["accuracy"])[0].get_title("right") == ""


def test_what_diverged_is_named_and_what_lies_far_below_is_a_triangle_with_its_value() -> None:
    rows = [r for s in (0, 1) for r in (cell("search", s, 0.90 + s / 100), cell("am", s, 0.89), cell("arc", s, 0.88))]
    rows += [cell("softmax", s, 0.2 + s / 10) for s in (0, 1)] + [diverged("circle", s) for s in (0, 1)]
    [panel] = panels_of(pd.DataFrame(rows), ["accuracy"])
    texts = [text.get_text() for text in panel.texts]
    assert sorted(texts) == ["25.00", "diverged"]
    low, high = panel.get_ylim()
    assert 25 < low < 88
    assert high > 90.5
    [triangle] = [line for line in panel.lines if line.get_marker() == "v"]
    assert list(triangle.get_ydata()) == [low]


def test_a_single_method_is_all_in_view() -> None:
    frame = small_frame()
    am = frame[(frame["method"] == "am") & (frame["seed"] == 0)]
    [panel] = panels_of(am, ["accuracy"])
    assert panel.get_ylim()[0] < 80
    assert panel.get_ylim()[1] > 85
    assert not panel.texts


def test_a_single_value_is_not_on_the_edge() -> None:
    [panel] = panels_of(pd.DataFrame([cell("am", 0, 0.5)]), ["accuracy"])
    assert panel.get_ylim()[0] < 50 < panel.get_ylim()[1]


def test_losses_have_colours_of_their_own() -> None:
    methods = ("softmax", "norm_softmax", "a_softmax", "v_softmax", "arc", "am", "mv_am", "am_lfs", "random", "search")
    [panel] = panels_of(pd.DataFrame([cell(m, 0, 0.5) for m in methods]), ["accuracy"])
    colours = {to_rgba(c.lines[0].get_color()) for c in panel.containers}  # type: ignore[attr-defined]
    assert len(colours) == len(methods)


def test_nothing_to_draw_is_a_defect() -> None:
    with pytest.raises(ValueError, match="needs a finished cell and a metric"):
        comparison_figure(small_frame().iloc[:0], ["accuracy"])
    with pytest.raises(ValueError, match="needs a generation"):
        loss_figure([], 100)


def test_the_suffix_decides_the_format_and_bytes_repeat() -> None:
    def encoded(name: str) -> bytes:
        return figure_bytes(comparison_figure(small_frame(), ["accuracy"]), name)

    assert encoded("a/b.PNG").startswith(b"\x89PNG")
    assert b"Search-Softmax</text>" in encoded("b.svg")
    assert encoded("b.svg") == encoded("b.svg")
    assert encoded("b.png") == encoded("b.png")
    with pytest.raises(UserError, match=r"must end in \.png or \.svg, got 'b\.pdf'"):
        encoded("b.pdf")


def learned(margins: list[float]) -> Loss:
    return LossParameters(scale=32.0, shift=tuple(32.0 * m for m in margins))


def test_the_margin_of_each_generation_stands_against_p() -> None:
    figure = loss_figure([(3, learned([0.2])), (4, learned([0.1, 0.3]))], 100)
    margin_panel = figure.axes[0]
    [first, second, am, arc, softmax] = margin_panel.lines
    p, margins = (np.asarray(values) for values in second.get_data())
    assert p[0] < 0.01
    assert p[-1] > 1 - 1e-5
    np.testing.assert_allclose(margins, np.where(p <= 0.5, 0.1, 0.3), atol=1e-6)
    np.testing.assert_allclose(first.get_ydata(), 0.2, atol=1e-6)
    np.testing.assert_allclose(am.get_ydata(), 0.35, atol=1e-6)
    np.testing.assert_allclose(softmax.get_ydata(), 0, atol=1e-6)
    theta = np.arccos((np.log(p / (1 - p)) + math.log(99)) / 32)
    np.testing.assert_allclose(arc.get_ydata(), np.cos(theta) - np.cos(theta + 0.5), atol=1e-6)
    assert margin_panel.get_xscale() == "logit"


def test_the_loss_stands_against_the_target_cosine() -> None:
    _, loss_panel, *_ = loss_figure([(0, learned([0.25])), (1, learned([0.3]))], 50).axes
    cosine, values = (np.asarray(v) for v in loss_panel.lines[0].get_data())
    assert (cosine[0], cosine[-1]) == (-0.2, 1)
    np.testing.assert_allclose(values, np.log1p(49 * np.exp(-32 * (cosine - 0.25))), rtol=1e-9)
    labels = [text.get_text() for text in loss_panel.get_legend().get_texts()]  # type: ignore[union-attr]
    assert labels == ["AM, m = 0.35", "Arc, m = 0.5", "Softmax"]


def test_generations_go_from_light_to_dark_and_a_bar_names_them() -> None:
    figure = loss_figure([(g, learned([g / 100])) for g in range(1, 22)], 50)
    lightness = [sum(to_rgba(line.get_color())[:3]) for line in figure.axes[0].lines[:21]]
    assert lightness == sorted(lightness, reverse=True)
    bar = figure.axes[-1]
    assert bar.get_ylabel() == "generation"
    assert [t.get_text() for t in bar.get_yticklabels()] == [str(n) for n in range(1, 22, 3)]


def test_scales_that_differ_are_named() -> None:
    losses = [make_loss(LossConfig(name="am", scale=scale), scale=1.0) for scale in (16.0, 24.5)]
    figure = loss_figure(list(enumerate(losses, start=1)), 50)
    assert [t.get_text() for t in figure.axes[-1].get_yticklabels()] == ["1 (s = 16)", "2 (s = 24.5)"]
    [top] = figure.axes[0].child_axes
    assert top.get_xlabel() == "cosine of the target class at scale 24.5"


def test_one_generation_is_named_in_the_legend() -> None:
    figure = loss_figure([(1, learned([0.2]))], 50, references=[("mine", make_loss(LossConfig(name="am"), scale=32))])
    assert len(figure.axes) == 2
    legend = figure.axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["learned", "mine"]  # type: ignore[union-attr]


def test_a_loss_with_a_state_is_drawn_without_changing_it() -> None:
    loss = Unified(scale=32.0, m_arc=0.3, curriculum=0.5)
    figure = loss_figure([(1, loss)], 50)
    assert np.isfinite(np.asarray(figure.axes[1].lines[0].get_ydata())).all()
    assert loss.initial_state() == {"t": torch.zeros(())}


def test_a_loss_that_is_of_no_margin_has_a_gap() -> None:
    class Negative(LossParameters):
        def per_sample(self, cosines: torch.Tensor, target: torch.Tensor, context: Any = None) -> torch.Tensor:
            return super().per_sample(cosines, target, context) - 1

    figure = loss_figure([(1, Negative(scale=32.0, shift=(6.4,)))], 50)
    margins = np.asarray(figure.axes[0].lines[0].get_ydata())
    assert np.isnan(margins).any()
    assert np.isfinite(margins).any()
    assert all(math.isfinite(edge) for edge in figure.axes[0].get_ylim())
    assert figure_bytes(figure, "a.png")


def test_fonts_that_are_not_there_are_no_news() -> None:
    assert not logging.getLogger("matplotlib.font_manager").isEnabledFor(logging.WARNING)
