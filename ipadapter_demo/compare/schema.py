"""Types of documents, and the JSON schemas that follow from them.

A document is checked by the schema, whose errors name field, limit and value in one short line,
and then read into its type. What is not set is not written again: `document()` of what was read is
what was read.
"""

from __future__ import annotations

import itertools
import json
from functools import cache
from typing import Annotated, Any, TypeVar

import jsonschema
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import UnionSchema, WithDefaultSchema

from ipadapter_demo.errors import RequestError

MAX_ERRORS = 20  # of a document, among which the one to tell is looked for

RANGE = r"^-?\d+(\.\d+)?:-?\d+(\.\d+)?(:\d+(\.\d+)?)?$"
CellName = Annotated[str, Field(pattern=r"^p\d{1,3}-r\d{1,3}-c\d{1,3}$")]


class Part(BaseModel):
    """An object of a document."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    def given(self) -> dict[str, Any]:
        """The fields that are set."""
        return {name: value for name, value in self if name in self.model_fields_set}

    def document(self) -> dict[str, Any]:
        """As JSON writes it, in the order of the type's fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


P = TypeVar("P", bound=Part)


def checked(document: object, kind: type[P], name: str, context: object = None) -> P:
    """Raises RequestError unless the document, called `name`, is of that kind."""
    errors = itertools.islice(_validator(kind).iter_errors(document), MAX_ERRORS)
    error = jsonschema.exceptions.best_match(errors)
    if error is not None:
        place = error.json_path.replace("$", name, 1)
        if error.validator_value == RANGE:
            field = error.absolute_path[-1]
            raise RequestError(f"{field} must be first:last:step, got {error.instance!r:.80}")
        raise RequestError(f"{place:.200}: {error.message:.200}")
    return parsed(document, kind, name, context)


def parsed(document: object, kind: type[P], name: str, context: object = None) -> P:
    """Of a document that fits the schema. Raises RequestError where a field refuses its value."""
    try:
        return kind.model_validate(document, context=context)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, RequestError):
            raise cause from error
        place = ".".join(map(str, (name, *first["loc"])))
        raise RequestError(f"{place:.200}: {first['msg']:.200}") from error


@cache
def _validator(kind: type[Part]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json_schema(kind))


@cache
def json_schema(kind: type[Part]) -> dict[str, object]:
    """JSON schema 2020-12."""
    found = json.dumps(kind.model_json_schema(schema_generator=_PlainSchema))
    one_line = found.replace(r"\n", " ")  # descriptions are docstrings
    return {"$schema": GenerateJsonSchema.schema_dialect, **json.loads(one_line)}


class _PlainSchema(GenerateJsonSchema):
    """Without titles of fields, without null for what is not set, and with one kind of number."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        inner = schema["schema"]
        return self.generate_inner(inner["schema"] if inner["type"] == "nullable" else inner)

    def union_schema(self, schema: UnionSchema) -> JsonSchemaValue:
        found = super().union_schema(schema)
        one, *others = found.get("anyOf", [{}])
        numbers = one.get("type") == "integer" and others == [one | {"type": "number"}]
        return others[0] if numbers else found
