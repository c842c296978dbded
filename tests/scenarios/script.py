"""The text of a scenario: what it proves, then commands, each followed by its output.

    # The first line says what it proves; it is the scenario's title in docs/scenarios.md.
    > kill a
    > wait 2s
      +0.215  b  elected => TAKING FENCING

Lines that begin with a blank are output, and are made by the runner; all others are the author's and stay as they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PROMPT = "> "


class ScriptError(Exception):
    """A scenario that cannot be read, or that does not exist."""


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    title: str  # the first sentence
    lines: tuple[str, ...]  # the author's
    text: str  # the whole file, output included

    def commands(self) -> Iterator[str]:
        return (line.removeprefix(PROMPT) for line in self.lines if line.startswith(PROMPT))

    def render(self, outputs: Sequence[Sequence[str]]) -> str:
        """The file as it should be: each command with its output."""
        left = iter(outputs)
        rendered: list[str] = []
        for line in self.lines:
            rendered.append(line)
            if line.startswith(PROMPT):
                rendered += [f"  {text}".rstrip() for text in next(left, ())]
        return "\n".join(rendered) + "\n"


def parse(name: str, text: str) -> Script:
    lines = tuple(line for line in text.rstrip("\n").split("\n") if not line.startswith(" "))
    head: list[str] = []
    for line in lines:
        if not line.startswith("# "):
            break
        head.append(line[2:])
    if not head:
        raise ScriptError(f"{name}: the first line has to say what the scenario proves: `# …`")
    strange = [line for line in lines if line and not line.startswith(("# ", PROMPT))]
    if strange:
        raise ScriptError(f"{name}: neither a comment (# …), a command (> …) nor indented output: {strange[0]!r}")
    words = " ".join(head)
    title = words.split(". ")[0].rstrip(".") + "."
    return Script(name, title, lines, text)


def load(path: Path) -> Script:
    return parse(path.stem, path.read_text())


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def find(words: Sequence[str]) -> list[Script]:
    """Those whose name contains one of the words; all without words. Raises ScriptError."""
    for word in words:
        if not any(word in name for name in names()):
            raise ScriptError(f"no scenario is called {word}; there are: {', '.join(names())}")
    return [load(FOLDER / f"{name}.txt") for name in names() if not words or any(word in name for word in words)]
