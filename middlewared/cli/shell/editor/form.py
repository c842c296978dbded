"""The fields on the whole screen: Tab and arrows or the mouse to move, typing and space to fill in."""

import enum
from collections.abc import Callable, Iterator

from prompt_toolkit.application import Application, get_app
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.filters import Condition, has_completions
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.bindings.focus import focus_next, focus_previous
from prompt_toolkit.layout import (
    AnyContainer,
    ConditionalContainer,
    DynamicContainer,
    Float,
    FloatContainer,
    FormattedTextControl,
    HSplit,
    Layout,
    ScrollablePane,
    VSplit,
    Window,
    WindowAlign,
)
from prompt_toolkit.layout.dimension import Dimension
from prompt_toolkit.layout.menus import CompletionsMenu
from prompt_toolkit.mouse_events import MouseEvent, MouseEventType
from prompt_toolkit.widgets import Button, TextArea

from middlewared.cli.commands import Command
from middlewared.cli.shell.editor.fields import Field, Form, Group, Leaf, Rows
from middlewared.cli.shell.style import STYLE

LABEL_COLUMNS_MIN, LABEL_COLUMNS_MAX = 14, 34
VALUE_COLUMNS = 36
DESCRIPTION_LINES = 4
INDENT = 2
KEYS = " Tab next   Space choose   Ctrl-S save   Ctrl-E edit as YAML   Esc cancel "


class Outcome(enum.Enum):
    SAVE = "save"
    CANCEL = "cancel"
    TEXT = "text"


class Screen:
    """One form. `choices`: live values by the dotted path of their field."""

    def __init__(self, command: Command, form: Form, choices: dict[str, list[str]]) -> None:
        self._command = command
        self._form = form
        self._choices = choices
        self._owners: dict[Window, Field] = {}  # which field a window belongs to
        self._entries: dict[Window, Field] = {}  # where one goes to fill it in
        self._insisting = False  # after a first attempt to save, what is missing is said too
        self._rows: HSplit = HSplit([])
        self._save = Button("Save", self._try_save, width=10)
        self._application: Application[Outcome] = Application(
            Layout(self._frame()),
            key_bindings=self._keys(),
            full_screen=True,
            mouse_support=True,
            style=STYLE,
        )
        self._application.ttimeoutlen = 0.1  # Esc means cancel: do not wait long for more of an escape sequence

    async def run(self) -> Outcome:
        self._rebuild()
        wrong = next((field for field in self._form.walk() if field.refused), None)
        self._focus(wrong)
        return await self._application.run_async()

    # ---------------------------------------------------------------------------------------- layout

    def _frame(self) -> AnyContainer:
        title = f" {self._command.path}"
        summary = f"  {self._command.summary}" if self._command.summary else ""
        body = HSplit(
            [
                Window(
                    FormattedTextControl([("class:title", title), ("class:title.dim", summary)]),
                    height=1,
                    style="class:title",
                ),
                ConditionalContainer(
                    Window(
                        FormattedTextControl(lambda: [("class:bad", f" {self._form.general}")]),
                        wrap_lines=True,
                        dont_extend_height=True,
                    ),
                    filter=Condition(lambda: bool(self._form.general)),
                ),
                Window(height=1),
                ScrollablePane(DynamicContainer(lambda: self._rows), display_arrows=False),
                Window(height=1, char="─", style="class:dim"),
                Window(
                    FormattedTextControl(self._described),
                    height=Dimension(min=1, preferred=DESCRIPTION_LINES, max=DESCRIPTION_LINES),
                    wrap_lines=True,
                ),
                VSplit(
                    [
                        self._save,
                        Button("Cancel", lambda: self._exit(Outcome.CANCEL), width=10),
                        Window(FormattedTextControl(KEYS), style="class:dim", height=1, align=WindowAlign.RIGHT),
                    ],
                    padding=1,
                    height=1,
                ),
            ]
        )
        return FloatContainer(body, [Float(CompletionsMenu(max_height=8), xcursor=True, ycursor=True)])

    def _rebuild(self) -> None:
        self._owners, self._entries = {}, {}
        rows: list[AnyContainer] = []
        for field in self._form.fields:
            if field is self._form.packed and isinstance(field, Group):
                for member in field.members:  # its members are what one types on the command line
                    rows += self._field(member, 0)
            else:
                rows += self._field(field, 0)
        self._rows = HSplit(rows or [Window(FormattedTextControl(" This command takes no arguments."), height=1)])

    def _field(self, field: Field, depth: int, extra: list[AnyContainer] | None = None) -> Iterator[AnyContainer]:
        if isinstance(field, Leaf):
            yield self._row(field, depth, [self._input(field), *(extra or []), self._note(field.hint())])
        elif isinstance(field, Group):
            yield self._row(field, depth, extra or [])
            for member in field.members:
                yield from self._field(member, depth + 1)
        elif isinstance(field, Rows):
            yield self._row(field, depth, [self._button("+ add", field, lambda: self._add(field)), *(extra or [])])
            for item in field.items:
                remove = self._button("remove", item, lambda item=item: self._remove(field, item))  # type: ignore[misc]  # a default binds the item of now
                yield from self._field(item, depth + 1, [remove])
        yield ConditionalContainer(
            Window(
                FormattedTextControl(
                    lambda: [("class:bad", f"{' ' * self._label_columns()} {self._complaint(field)}")]
                ),
                height=1,
            ),
            filter=Condition(lambda: bool(self._complaint(field))),
        )

    def _row(self, field: Field, depth: int, parts: list[AnyContainer]) -> AnyContainer:
        mark = " *" if field.required and not isinstance(field.path[-1], int) else ""
        label = f" {' ' * INDENT * depth}{field.name}{mark}"
        style = "class:label" if isinstance(field, Leaf) else "class:group"
        columns = self._label_columns()
        cut = label if len(label) <= columns else label[: columns - 1] + "…"
        return VSplit(
            [Window(FormattedTextControl([(style, cut)]), width=columns, height=1), *parts, Window(height=1)],
            padding=1,
            height=1,
        )

    def _label_columns(self) -> int:
        longest = max((len(field.name) + INDENT * (len(field.path) - 1) for field in self._form.walk()), default=0)
        return max(LABEL_COLUMNS_MIN, min(longest + 4, LABEL_COLUMNS_MAX))

    @staticmethod
    def _note(text: str) -> AnyContainer:
        return Window(FormattedTextControl(text), style="class:dim", height=1)

    def _input(self, field: Leaf) -> AnyContainer:
        if field.options:
            control = Options(field)
            window = Window(control, height=1, dont_extend_width=True, style="class:choice")
            self._owners[window] = self._entries[window] = field
            return window
        words = self._choices.get(".".join(str(part) for part in field.path if isinstance(part, str)), [])
        words = words or [str(each) for each in field.schema.get("enum") or []]
        area = TextArea(
            field.text,
            multiline=False,
            height=1,
            width=VALUE_COLUMNS,
            password=field.secret,
            focus_on_click=True,
            style="class:input",
            completer=WordCompleter(words, sentence=True) if words else None,
            complete_while_typing=bool(words),
            accept_handler=self._next,
        )
        area.buffer.cursor_position = len(field.text)
        area.buffer.on_text_changed += lambda buffer: field.edit(buffer.text)
        self._owners[area.window] = self._entries[area.window] = field
        return area

    @staticmethod
    def _next(buffer: Buffer) -> bool:
        """Enter goes on to the next field, and leaves the text where it is."""
        get_app().layout.focus_next()
        return True

    def _button(self, text: str, field: Field, handler: Callable[[], None]) -> AnyContainer:
        button = Button(text, handler, width=len(text) + 2, left_symbol="[", right_symbol="]")
        self._owners[button.window] = field
        if isinstance(field, Rows):
            self._entries[button.window] = field
        return button

    # ---------------------------------------------------------------------------------------- what is shown

    def _complaint(self, field: Field) -> str:
        said = field.touched or self._insisting or (isinstance(field, Leaf) and field.text != "")
        return field.refused or (field.own_problem() if said else "")

    def _described(self) -> StyleAndTextTuples:
        field = self._owners.get(get_app().layout.current_window)
        if field is None:
            return []
        words = field.schema.get("type") or "any"
        kind = words if isinstance(words, str) else " or ".join(words)
        required = ", required" if field.required else ""
        return [
            ("class:label", f" {field.name}"),
            ("class:dim", f"  {kind}{required}\n"),
            ("", f" {field.description}"),
        ]

    # ---------------------------------------------------------------------------------------- what happens

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        keys.add("tab", filter=~has_completions)(focus_next)
        keys.add("down", filter=~has_completions)(focus_next)
        keys.add("s-tab", filter=~has_completions)(focus_previous)
        keys.add("up", filter=~has_completions)(focus_previous)
        keys.add("c-s")(lambda event: self._try_save())
        keys.add("c-e")(lambda event: self._leave_for_text())
        keys.add("escape", eager=True)(lambda event: self._exit(Outcome.CANCEL))
        keys.add("c-c")(lambda event: self._exit(Outcome.CANCEL))
        return keys

    def _try_save(self) -> None:
        """Leave with what is there, unless something is wrong with it: then go where that is."""
        self._insisting = True
        wrong = self._form.wrong()
        if wrong:
            self._focus(wrong[0])
        else:
            self._exit(Outcome.SAVE)

    def _leave_for_text(self) -> None:
        wrong = [field for field in self._form.wrong() if field.own_problem() != "is required"]
        if wrong:
            self._insisting = True
            self._focus(wrong[0])
        else:
            self._exit(Outcome.TEXT)

    def _exit(self, outcome: Outcome) -> None:
        if not self._application.is_done and self._application.is_running:
            self._application.exit(result=outcome)

    def _add(self, rows: Rows) -> None:
        rows.add()
        self._rebuild()
        self._focus(rows.items[-1])

    def _remove(self, rows: Rows, item: Field) -> None:
        if any(
            field.own_problem() not in ("", "is required")
            for each in rows.items
            if each is not item
            for field in each.walk()
        ):
            return  # the others hold texts that cannot be read: to be mended first
        rows.remove(item)
        self._rebuild()
        self._focus(rows)

    def _focus(self, field: Field | None) -> None:
        """Go to a field, or to the first thing inside it; without one, to the first of all."""
        wanted = list(field.walk()) if field is not None else list(self._form.walk())
        for each in wanted:
            for window, owner in self._entries.items():
                if owner is each:
                    self._application.layout.focus(window)
                    return
        self._application.layout.focus(self._save)


class Options(FormattedTextControl):
    """`(•) true  ( ) false`: space or arrows choose, Delete takes it back, a click chooses."""

    def __init__(self, field: Leaf) -> None:
        self._field = field
        keys = KeyBindings()
        keys.add(" ")(lambda event: self._turn(1))
        keys.add("right")(lambda event: self._turn(1))
        keys.add("left")(lambda event: self._turn(-1))
        keys.add("delete")(lambda event: field.edit(""))
        keys.add("backspace")(lambda event: field.edit(""))
        super().__init__(self._drawn, focusable=True, key_bindings=keys, show_cursor=False)

    def _drawn(self) -> StyleAndTextTuples:
        focused = get_app().layout.has_focus(self)
        fragments: StyleAndTextTuples = [("[SetCursorPosition]", "")]
        for option in self._field.options:
            chosen = option == self._field.text
            style = "class:choice.focused" if focused and chosen else "class:choice"
            fragments.append((style, f"({'•' if chosen else ' '}) {option}", self._clicked(option)))
            fragments.append(("", "  "))
        if focused:
            fragments.append(("class:dim", "←"))
        return fragments

    def _turn(self, by: int) -> None:
        options = self._field.options
        place = options.index(self._field.text) + by if self._field.text in options else (0 if by > 0 else -1)
        self._field.edit(options[place % len(options)])

    def _clicked(self, option: str) -> Callable[[MouseEvent], object]:
        def handle(event: MouseEvent) -> object:
            if event.event_type is not MouseEventType.MOUSE_UP:
                return NotImplemented
            get_app().layout.focus(self)
            self._field.edit(option)
            return None

        return handle
