"""Colours, in one place. prompt_toolkit leaves them out where NO_COLOR is set, or the terminal has none."""

from prompt_toolkit.styles import Style

STYLE = Style.from_dict(
    {
        "good": "ansigreen",
        "calm": "ansicyan",
        "warn": "ansiyellow bold",
        "bad": "ansired bold",
        "dim": "ansibrightblack",
        "title": "reverse bold",
        "title.dim": "nobold",
        "label": "bold",
        "group": "bold underline",
        "input": "underline",
        "choice.focused": "reverse",
        "button.focused": "reverse",
    }
)
