"""The tree with some edits, without a copy of it: Python imports the edited texts in place of the files."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from tests.mutants.entry import Edit

ROOT = Path(__file__).resolve().parents[2]


def texts(edits: Sequence[Edit]) -> dict[Path, str]:
    """Each file that changes, and what it says then. Raises ValueError when an edit does not apply."""
    changed: dict[Path, str] = {}
    for edit in edits:
        path = ROOT / edit.file
        text = changed[path] if path in changed else path.read_text()
        if text.count(edit.old) != 1 or edit.new == edit.old:
            raise ValueError(f"{edit.file}: the text to replace occurs {text.count(edit.old)} times:\n{edit.old}")
        changed[path] = text.replace(edit.old, edit.new)
    return changed


def install(edits: Sequence[Edit]) -> None:
    """From now on this process imports the tree with the edits; of that, nothing may be imported yet."""
    early = [name for name in sys.modules if name.partition(".")[0] == "middlewared"]
    if early:
        raise ValueError(f"imported without the edits: {early}")
    sys.meta_path.insert(0, _Finder(texts(edits)))


class _Finder(MetaPathFinder):
    def __init__(self, changed: dict[Path, str]) -> None:
        self._changed = changed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        text = self._changed.get(Path(spec.origin).resolve())  # plugins/ is reached through a link
        if text is not None:
            spec.loader = _Loader(fullname, spec.origin, text)
        return spec


class _Loader(SourceFileLoader):
    """Compiles the text that it was given, and leaves no byte code behind."""

    def __init__(self, fullname: str, path: str, text: str) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)
