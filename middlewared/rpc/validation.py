"""Arguments against their schemas: a compiled validator says yes, `jsonschema` explains no, defaults are filled in.

Schemas are JSON Schema 2020-12 without references (the registry has expanded them). `format` is an annotation.
"""

import copy
import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jsonschema
import jsonschema_rs
from jsonschema.exceptions import ValidationError

from middlewared.errors import ValidationErrors
from middlewared.rpc import extjson

Schema = dict[str, Any]
Fill = Callable[[Any], Any]

_WHOLE_FLOAT_MAX = 2**53  # beyond it a float no longer says which integer was meant


def _is_integer(_checker: Any, value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer() and abs(value) <= _WHOLE_FLOAT_MAX
    return isinstance(value, int) and not isinstance(value, bool)


_Explainer = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)

_TYPE_WORDS = {
    "integer": "a valid integer",
    "number": "a valid number",
    "string": "a valid string",
    "boolean": "a valid boolean",
    "array": "a valid list",
    "object": "a valid object",
    "null": "null",
}


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _types(value: str | list[str]) -> str:
    return _either([_TYPE_WORDS[name] for name in ([value] if isinstance(value, str) else value)])


_MESSAGES: dict[str, Callable[[Any], str]] = {
    "type": lambda value: f"Input should be {_types(value)}",
    "enum": lambda value: f"Input should be {_either([repr(item) for item in value])}",
    "const": lambda value: f"Input should be {value!r}",
    "minimum": lambda value: f"Input should be greater than or equal to {value}",
    "maximum": lambda value: f"Input should be less than or equal to {value}",
    "exclusiveMinimum": lambda value: f"Input should be greater than {value}",
    "exclusiveMaximum": lambda value: f"Input should be less than {value}",
    "multipleOf": lambda value: f"Input should be a multiple of {value}",
    "minLength": lambda value: f"String should have at least {value} characters",
    "maxLength": lambda value: f"String should have at most {value} characters",
    "pattern": lambda value: f"String should match pattern '{value}'",
    "minItems": lambda value: f"List should have at least {value} items",
    "maxItems": lambda value: f"List should have at most {value} items",
    "uniqueItems": lambda value: "List items should be unique",
    "minProperties": lambda value: f"Object should have at least {value} members",
    "maxProperties": lambda value: f"Object should have at most {value} members",
}


def _explain(error: ValidationError, path: list[str]) -> Iterator[tuple[str, str]]:
    """(dotted path, message) for one finding; never with the refused value in it, which may be a secret."""
    here = [*path, *(str(part) for part in error.relative_path)]
    if error.validator == "required":
        given = error.instance
        missing = [name for name in error.validator_value if name not in given]
        yield from ((".".join([*here, name]), "attribute required") for name in missing)
    elif error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        extra = [name for name in error.instance if name not in known]
        yield from ((".".join([*here, name]), "Extra inputs are not permitted") for name in extra)
    elif error.validator in ("anyOf", "oneOf") and error.context:
        for inner in _closest_branch(error.context):
            yield from _explain(inner, here)
    else:
        say = _MESSAGES.get(str(error.validator), lambda value: f"Input does not satisfy '{error.validator}'")
        yield ".".join(here), say(error.validator_value)


def _closest_branch(findings: Sequence[ValidationError]) -> list[ValidationError]:
    """Of several alternatives the one the caller meant: the one whose discriminator fits, else the least wrong."""
    branches: dict[Any, list[ValidationError]] = {}
    for finding in findings:
        branches.setdefault(finding.relative_schema_path[0], []).append(finding)

    def wrongness(branch: list[ValidationError]) -> tuple[int, int]:
        other_kind = sum(finding.validator in ("const", "enum", "type") for finding in branch)
        return other_kind, len(branch)

    return min(branches.values(), key=wrongness)


# ---------------------------------------------------------------------------------------------- defaults


class _TooBigError(Exception):
    """A float that stands where an integer must, and does not say which."""


def _whole(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    if abs(value) > _WHOLE_FLOAT_MAX:
        raise _TooBigError
    return int(value)


def _filler(schema: Schema) -> Fill | None:
    """A function that fills in the defaults of a valid value and makes whole floats integers; None: nothing to do."""
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return _branch_filler(branches)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "integer" in kinds:
        return _whole
    if "properties" in schema or isinstance(schema.get("additionalProperties"), dict):
        return _object_filler(schema)
    items = _filler(schema["items"]) if isinstance(schema.get("items"), dict) else None
    if items is None:
        return None
    return lambda value: [items(item) for item in value] if isinstance(value, list) else value


def _branch_filler(branches: list[Schema]) -> Fill | None:
    pairs = [(jsonschema_rs.validator_for(branch), _filler(branch)) for branch in branches]
    if all(fill is None for _, fill in pairs):
        return None

    def fill_branch(value: Any) -> Any:
        for validator, fill in pairs:
            if validator.is_valid(value):
                return value if fill is None else fill(value)
        return value

    return fill_branch


def _object_filler(schema: Schema) -> Fill | None:
    fillers = {name: _filler(inner) for name, inner in schema.get("properties", {}).items()}
    defaults = {name: inner["default"] for name, inner in schema.get("properties", {}).items() if "default" in inner}
    other = schema.get("additionalProperties")
    other_fill = _filler(other) if isinstance(other, dict) else None
    if not defaults and other_fill is None and all(fill is None for fill in fillers.values()):
        return None

    def fill_object(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        missing = {name: copy.deepcopy(default) for name, default in defaults.items() if name not in value}
        filled = value | missing
        for name, item in filled.items():
            fill = fillers.get(name, other_fill)
            if fill is not None:
                filled[name] = fill(item)
        return filled

    return fill_object


# ------------------------------------------------------------------------------------------------ params


@dataclass(frozen=True)
class Param:
    """One parameter of a method, ready to check arguments."""

    name: str
    required: bool
    schema: Schema

    @cached_property
    def _validator(self) -> jsonschema_rs.Validator:
        return jsonschema_rs.validator_for(self.schema)

    @cached_property
    def _fill(self) -> Fill | None:
        return _filler(self.schema)

    @cached_property
    def _explainer(self) -> Any:
        return _Explainer(self.schema)

    def fill(self, value: Any) -> Any:
        """A valid value with its defaults. Raises ValidationErrors for an integer too big to be one."""
        try:
            return value if self._fill is None else self._fill(value)
        except _TooBigError as error:  # the quick validator let it pass, the thorough one does not
            raise ValidationErrors(self._explained(value)) from error

    def default(self) -> Any:
        """The value of an omitted argument."""
        return self.fill(copy.deepcopy(self.schema["default"])) if "default" in self.schema else None

    def findings(self, value: Any) -> list[tuple[str | None, str, int]]:
        """What is wrong with an argument; empty: nothing."""
        try:
            if self._validator.is_valid(value):
                return []
        except ValueError:
            pass  # a Python value without a JSON form, from inside the daemon: the other validator takes it
        return self._explained(value)

    def _explained(self, value: Any) -> list[tuple[str | None, str, int]]:
        found: set[tuple[str, str]] = set()
        for error in self._explainer.iter_errors(value):
            found.update(_explain(error, [self.name]))
        return [(path, message, errno.EINVAL) for path, message in sorted(found)]


def check_arguments(params: Sequence[Param], arguments: Sequence[Any], *, special: bool = True) -> list[Any]:
    """All declared arguments, checked, with defaults. Raises ValidationErrors naming every fault at once.

    `special`: the arguments may hold extended JSON, which is decoded after the check.
    """
    if not params and not arguments:
        return []
    if len(arguments) > len(params):
        raise ValidationErrors([("", f"Too many arguments: at most {len(params)} expected", errno.EINVAL)])
    findings: list[tuple[str | None, str, int]] = []
    for param, value in zip(params, arguments, strict=False):
        findings.extend(param.findings(value))
    for param in params[len(arguments) :]:
        if param.required:
            findings.append((param.name, "attribute required", errno.EINVAL))
    if findings:
        raise ValidationErrors(findings)
    checked = [param.fill(value) for param, value in zip(params, arguments, strict=False)]
    if special:
        checked = [_decoded(param, value) for param, value in zip(params, checked, strict=False)]
    return checked + [param.default() for param in params[len(arguments) :]]


def _decoded(param: Param, value: Any) -> Any:
    if not isinstance(value, dict | list):
        return value
    try:
        return extjson.decode(value)
    except ValueError as error:
        raise ValidationErrors([(param.name, f"Not valid extended JSON: {error}", errno.EINVAL)]) from error


def _mask(value: Any, path: Sequence[str]) -> Any:
    if not path:
        return "********"
    if isinstance(value, list):
        return [_mask(item, path) for item in value]
    if isinstance(value, dict) and path[0] in value:
        return {**value, path[0]: _mask(value[path[0]], path[1:])}
    return value


def masked(params: Sequence[Param], arguments: Sequence[Any], secret_paths: Iterable[str]) -> list[Any]:
    """Arguments fit for jobs, audit and logs: what stands at a secret path (`data.password`) is starred out."""
    names = [param.name for param in params]
    result = list(arguments)
    for path in secret_paths:
        name, *rest = path.split(".")
        position = names.index(name)
        if position < len(result) and result[position] is not None:
            result[position] = _mask(result[position], rest)
    return result
