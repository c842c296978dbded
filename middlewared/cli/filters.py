"""`query [COLUMNS | *] [WHERE EXPRESSION]` as filters of the API (PROTOCOL 8 and 10.6)."""

import ast
import json
from typing import Any

from middlewared.cli.usage import UsageError

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "=",
    ast.NotEq: "!=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.In: "in",
    ast.NotIn: "nin",
}
_MIRRORED = {"=": "=", "!=": "!=", ">": "<", ">=": "<=", "<": ">", "<=": ">=", "in": "rin", "nin": "rnin"}
_CALLS = {"match": "~", "startswith": "^", "endswith": "$"}
_CONSTANTS = {"true": True, "false": False, "null": None}


def parse(tokens: list[str]) -> tuple[list[Any], list[str]]:
    """The `params` of the query and the columns to show (none: all). Raises UsageError."""
    if tokens and tokens[0][:1] in "[{":
        return _raw(tokens), []
    where = next((index for index, token in enumerate(tokens) if token.upper() == "WHERE"), len(tokens))
    columns = [column for token in tokens[:where] for column in token.split(",") if column]
    expression = " ".join(tokens[where + 1 :])
    if where < len(tokens) and not expression:
        raise UsageError("WHERE needs an expression, for instance: WHERE 'name == \"tank\"'")
    filters = _filters(expression) if expression else []
    return [filters, {}], [] if "*" in columns else columns


def select(result: Any, columns: list[str]) -> Any:
    """Only the named columns of every row; `a.b` reaches into objects."""
    if not columns or not isinstance(result, list):
        return result
    rows = [row for row in result if isinstance(row, dict)]
    return [{column: _reach(row, column) for column in columns if column.split(".")[0] in row} for row in rows]


def _reach(row: Any, column: str) -> Any:
    for part in column.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row


def _raw(tokens: list[str]) -> list[Any]:
    try:
        return [json.loads(token) for token in tokens]
    except ValueError as error:
        raise UsageError(f"filters and options must be JSON ({error}), or write COLUMNS WHERE EXPRESSION") from None


def _filters(expression: str) -> list[Any]:
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        hint = " (equality is ==)" if "=" in expression.replace("==", "") else ""
        raise UsageError(f"WHERE {expression}: not an expression{hint}") from None
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        return [_filter(each) for each in tree.values]
    return [_filter(tree)]


def _filter(node: ast.expr) -> list[Any]:
    match node:
        case ast.BoolOp(op=operator, values=values):
            return ["AND" if isinstance(operator, ast.And) else "OR", [_filter(each) for each in values]]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ["NOT", _filter(operand)]
        case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARISONS:
            return _comparison(left, _COMPARISONS[type(operator)], right)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=field), attr=name), args=[argument], keywords=[]) if (
            name in _CALLS
        ):
            return [field, _CALLS[name], _value(argument)]
        case _:
            raise UsageError(f'WHERE: "{ast.unparse(node)}" is not a comparison like name == "tank"')


def _comparison(left: ast.expr, operator: str, right: ast.expr) -> list[Any]:
    """A field on the left; a value on the left (`"x" in field`) turns the comparison round."""
    if isinstance(left, ast.Name) and left.id not in _CONSTANTS:
        return [left.id, operator, _value(right)]
    if isinstance(right, ast.Name) and right.id not in _CONSTANTS:
        return [right.id, _MIRRORED[operator], _value(left)]
    raise UsageError("WHERE: one side of a comparison must be the name of a field")


def _value(node: ast.expr) -> Any:
    """A literal; a bare word is text, since the shell takes quotes away."""
    if isinstance(node, ast.Name):
        return _CONSTANTS.get(node.id, node.id)
    try:
        found = ast.literal_eval(node)
    except ValueError:
        raise UsageError(f'WHERE: "{ast.unparse(node)}" is not a value: put text in quotes') from None
    return list(found) if isinstance(found, tuple | set) else found
