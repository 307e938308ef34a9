"""The page of the metric's Space."""

import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("xmc_ranking.py"))
