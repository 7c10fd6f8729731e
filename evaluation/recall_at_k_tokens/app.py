"""The widget of the metric's Space."""

from pathlib import Path

if __name__ == "__main__":
    import evaluate
    from evaluate.utils import launch_gradio_widget

    launch_gradio_widget(evaluate.load(str(Path(__file__).with_name("recall_at_k_tokens.py"))))
