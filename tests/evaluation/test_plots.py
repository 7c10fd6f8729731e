"""Pictures hold what went in: dots and lines at their means and intervals, each figure of a log in a panel."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from drdecr.evaluation.plots import (
    COLOURS,
    collect_series,
    draw_curves,
    draw_intervals,
    ordered_languages,
    plot_intervals,
)
from drdecr.evaluation.results import Difference, Score

ROWS = {
    "zero-shot": {
        "ru": Score(0.729, 0.69, 0.768, 310),
        "ar": Score(0.55, 0.5, 0.6, 300),
        "avg": Score(0.64, 0.61, 0.67, 610),
    },
    "student": {"ar": Score(0.6264, 0.584, 0.666, 300), "avg": Score(0.6264, 0.584, 0.666, 300)},
    "teacher": {"en": Score(0.9, 0.9, 0.9, 3), "avg": Score(0.88, 0.8, 0.9, 284)},
}


def test_languages_stand_under_their_names_and_the_average_last():
    assert ordered_languages(ROWS.values()) == {"ar": 300, "en": 3, "ru": 310, "avg": 610}
    axes = Figure().subplots()
    draw_intervals(axes, ROWS, ordered_languages(ROWS.values()), list(ROWS))
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["Arabic\nn = 300", "English\nn = 3", "Russian\nn = 310", "average\nn = 610"]


def test_dots_and_lines_stand_where_the_figures_do():
    axes = Figure().subplots()
    order = ["other", *ROWS]
    draw_intervals(axes, ROWS, ordered_languages(ROWS.values()), order)
    assert [list(dots.get_xdata()) for dots in axes.lines] == [[0.55, 0.729, 0.64], [0.6264, 0.6264], [0.9, 0.88]]
    assert [to_hex(dots.get_color()).upper() for dots in axes.lines] == list(COLOURS[1:4])  # as in a picture of all
    ends = [[(line[0, 0], line[1, 0]) for line in lines.get_segments()] for lines in axes.collections]
    assert ends[0] == [(0.5, 0.6), (0.69, 0.768), (0.61, 0.67)]
    heights = [height for dots in axes.lines for height in dots.get_ydata()]
    assert len(set(heights)) == len(heights)  # none hides another
    assert 0.4 < axes.get_xlim()[0] < 0.5  # the axis starts where something is to be seen


def test_differences_hold_zero():
    axes = Figure().subplots()
    rows = {"student": {"avg": Difference(-0.2, -0.3, -0.1, 9, 0.01, 0.01)}}
    draw_intervals(axes, rows, {"avg": 9}, ["student"])
    assert axes.get_xlim()[0] < -0.3 < 0.0 < axes.get_xlim()[1]


def test_any_number_of_systems_and_scores_of_zero_make_a_png(tmp_path):
    rows = {f"system {number}": {"avg": Score(0.0, 0.0, 0.0, 5)} for number in range(8)}
    assert plot_intervals(rows, tmp_path / "zero.png", "MRR@10", title="a").read_bytes().startswith(b"\x89PNG")


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_colours_stay_apart_for_colour_blind_readers(kind):
    rgb = np.array([to_rgb(colour) for colour in COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(COLOUR_BLINDNESS[kind]).T, 0, 1)
    xyz = seen @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    distances = [np.linalg.norm(one - other) for one, other in itertools.combinations(lab, 2)]
    assert min(distances) > 15  # CIELAB; 2 is just noticeable


LOG = [
    {"step": 1, "epoch": 0.1, "loss": 3.0, "learning_rate": 0.1},
    {"step": 2, "loss": 2.0, "eval_loss": 2.5, "eval_runtime": 9.0, "eval_samples_per_second": 4.0, "note": "text"},
    {"step": 3, "train_loss": 2.5, "total_flos": 1e9, "train_runtime": 1.0},
]


def test_losses_are_drawn_and_clockwork_is_not():
    assert collect_series(LOG) == {"loss": ([1, 2], [3.0, 2.0]), "eval_loss": ([2], [2.5])}


def test_training_and_validation_share_a_panel(tmp_path):
    one = imread(draw_curves(LOG, tmp_path / "one.png", "run"))
    two = imread(draw_curves([*LOG, {"step": 3, "mrr": 0.5}], tmp_path / "two.png", "run"))
    assert two.shape[0] == one.shape[0]
    assert two.shape[1] == 2 * one.shape[1]  # one panel beside another


def test_nothing_to_draw_makes_no_picture(tmp_path):
    assert not draw_curves([{"step": 1, "epoch": 1.0}], tmp_path / "a.png", "run").exists()
