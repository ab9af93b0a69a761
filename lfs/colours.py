"""Colours of Okabe and Ito: told apart with every common kind of colour vision, and in grey by their lightness."""

BLUE, VERMILION, GREEN, ORANGE, SKY, PINK, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#000000",
)  # fmt: skip
MUTED = "#444444"
PALE = "#B8C4CE"
REFERENCE_COLOURS = (VERMILION, PINK, BLACK)
"""Of AM, Arc and Softmax."""
