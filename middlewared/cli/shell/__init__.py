"""The interactive shell of midctl, on prompt_toolkit. What the commands are it learns from the server alone.

program     what starts it: a terminal, a pipe, one command with the editor, or the dashboard
session     the connection: lost with a controller, found again on whichever answers
lines       what a line means: words of its own (words), or a command, run by running
prompt      the terminal: prompt, keys, status line; completion, history and pager beside it
board       what the status line and the dashboard (watch) know of both controllers, kept fresh by events
editor/     arguments in a form, or as YAML in $EDITOR
"""
