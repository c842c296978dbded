"""Documentation that is made from code must be fresh."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_generated_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("render_docs", ROOT / "scripts" / "render_docs.py")
    assert spec is not None
    assert spec.loader is not None
    render_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render_docs)
    for path, text in render_docs.documents().items():
        written = path.read_text() if path.exists() else ""
        assert text == written, f"run `make docs` and commit {path.name}"
