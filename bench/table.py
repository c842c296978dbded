"""One line a measure: ours, what it is compared with, the ratio, and the budget (DESIGN.md, Numbers to design for)."""

from dataclasses import dataclass

from middlewared.cli.output import render as render_result


@dataclass(frozen=True, slots=True)
class Row:
    """Figures as they are shown. `value` is what the budget limits: a ratio, or a figure in the budget's unit."""

    measure: str
    ours: str
    compared_with: str = ""
    ratio: float | None = None
    value: float | None = None
    budget: float | None = None
    unit: str = ""  # of value and budget; "x" for ratios

    @property
    def verdict(self) -> str:
        if self.value is None or self.budget is None:
            return ""
        return "ok" if self.value <= self.budget else "over"

    @property
    def budget_text(self) -> str:
        if self.budget is None:
            return ""
        return f"{self.budget:g} {self.unit}"


def render(rows: list[Row]) -> str:
    """The table, drawn as midctl draws its own."""
    cells = [
        {
            "measure": row.measure,
            "ours": row.ours,
            "compared with": row.compared_with,
            "ratio": "" if row.ratio is None else f"{row.ratio:.2f}",
            "budget": row.budget_text,
            "verdict": row.verdict,
        }
        for row in rows
    ]
    return render_result(cells, "table")
