"""Curves: what is drawn, and that a picture comes of it."""

from matplotlib.image import imread

from drdecr.evaluation.plots import collect_series, draw_curves

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
