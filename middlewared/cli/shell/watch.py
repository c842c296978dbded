"""`midctl watch`: both controllers on the whole screen, kept up to date by events. What is drawn is in dashboard."""

import asyncio
import shutil
from datetime import datetime

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import StyleAndTextTuples as Text
from prompt_toolkit.formatted_text.utils import split_lines
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window

from middlewared.cli.shell import dashboard
from middlewared.cli.shell.board import Board
from middlewared.cli.shell.session import Session
from middlewared.cli.shell.style import STYLE
from middlewared.cli.usage import PROGRAM

KEYS = " q leave   up, down scroll "


async def watch(session: Session) -> None:
    """Until the user has seen enough."""
    application: Application[None] = Application(full_screen=True, style=STYLE, refresh_interval=1.0)
    board = Board(session, dashboard.SOURCES, application.invalidate)
    scrolled = 0

    def lines() -> list[Text]:
        columns = shutil.get_terminal_size().columns
        return list(split_lines(dashboard.draw(board.answers, connected=session.connected, columns=columns)))

    def draw() -> Text:
        shown: Text = []
        for line in lines()[scrolled:]:
            shown += [*line, ("", "\n")]
        return shown

    def title() -> Text:
        return [("class:title", f" {PROGRAM} watch  {session.hostname}  {datetime.now():%H:%M:%S} ")]

    def scroll(by: int) -> None:
        nonlocal scrolled
        scrolled = max(0, min(scrolled + by, len(lines()) - 2))

    application.layout = Layout(
        HSplit(
            [
                Window(FormattedTextControl(title), height=1, style="class:title"),
                Window(FormattedTextControl(draw)),
                Window(FormattedTextControl(KEYS), height=1, style="class:dim"),
            ]
        )
    )
    keys = KeyBindings()
    for key in ("q", "escape", "c-c", "c-d"):
        keys.add(key, eager=True)(lambda event: event.app.exit())
    keys.add("down")(lambda event: scroll(1))
    keys.add("up")(lambda event: scroll(-1))
    keys.add("pagedown")(lambda event: scroll(10))
    keys.add("pageup")(lambda event: scroll(-10))
    application.key_bindings = keys
    following = asyncio.create_task(board.run(), name="watch")
    try:
        with session.quiet():
            await application.run_async()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
