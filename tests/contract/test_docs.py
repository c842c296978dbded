"""Documentation that is made from code must be fresh."""

import importlib.util
from pathlib import Path

from middlewared.rpc.registry import Registry

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("render_docs", ROOT / "scripts" / "render_docs.py")
    assert spec is not None
    assert spec.loader is not None
    render_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render_docs)
    written = (ROOT / "docs" / "api.md").read_text() if (ROOT / "docs" / "api.md").exists() else ""
    assert render_docs.render(Registry.load()) == written, "schemas/ changed: run `make docs` and commit docs/api.md"
