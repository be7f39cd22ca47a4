"""The OpenAPI 3.1 schema of the API, made once in a process and language.

What drf-spectacular is told here holds while ours is made, and leaves the project's own settings as
they are.
"""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import Any, Final

from django.urls import reverse
from django.utils.translation import get_language, override
from django.utils.translation import gettext as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import patched_settings

import botsessions
from botsessions.api import examples, problems
from botsessions.api.documented import is_ours
from botsessions.api.endpoint import Endpoint

_lock = Lock()

#: What may go wrong with every request.
ALWAYS: Final = (400, 401, 403, 429, 503)
#: … with one whose address names a row, with one that changes something, and with its body.
OF_ROWS: Final = (404,)
OF_WRITES: Final = (404, 409, 422)
OF_BODIES: Final = (413, 415)
#: … and with some alone, by operation.
OF_OPERATIONS: Final[dict[str, tuple[int, ...]]] = {
    "sessions_partial_update": (412, 428),
    "messages_create": (502,),
}


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """A token of ours, in the schema."""

    target_class = "botsessions.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": _("A token: bs_…")}


class LoginScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Django's login, in the schema."""

    target_class = "botsessions.api.authentication.SessionAuthentication"
    name = "login"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        from django.conf import settings

        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


def document() -> dict[str, Any]:
    """Return the schema, in the language of the moment."""
    return _document(get_language() or "en", reverse("botsessions_api:root"))


@lru_cache(maxsize=8)
def _document(language: str, root: str) -> dict[str, Any]:
    told = {
        "OAS_VERSION": "3.1.0",
        "TITLE": "botsessions",
        "DESCRIPTION": _("Bots, their sessions and messages, and what operators do to them."),
        "VERSION": botsessions.__version__,
        "SCHEMA_PATH_PREFIX": root,
        "SCHEMA_PATH_PREFIX_TRIM": False,
        "SCHEMA_PATH_PREFIX_INSERT": "",
        "PREPROCESSING_HOOKS": ["botsessions.api.schema.only_ours"],
        "POSTPROCESSING_HOOKS": [
            "drf_spectacular.hooks.postprocess_schema_enums",
            "botsessions.api.schema.with_problems",
            "botsessions.api.schema.with_anything",
        ],
        "COMPONENT_SPLIT_REQUEST": True,
        "COMPONENT_SPLIT_PATCH": False,
        "ENUM_NAME_OVERRIDES": {
            "UpdateStatusEnum": "botsessions.models.BotUpdate.Status",
            "DeletionStatusEnum": "botsessions.models.MessageDeletion.Status",
        },
        "AUTHENTICATION_WHITELIST": None,
        "PARSER_WHITELIST": None,
        "RENDERER_WHITELIST": None,
        "CAMELIZE_NAMES": False,
        "SECURITY": [],
        "SERVERS": [],
        "APPEND_COMPONENTS": {},
        "APPEND_PATHS": {},
        "TAGS": [],
        "CONTACT": {},
        "LICENSE": {},
        "EXTERNAL_DOCS": {},
        "EXTENSIONS_INFO": {},
        "EXTENSIONS_ROOT": {},
        "WEBHOOKS": [],
    }
    token = is_ours.set(True)
    try:
        return _made(language, told)
    finally:
        is_ours.reset(token)


def _made(language: str, told: dict[str, Any]) -> dict[str, Any]:
    with _lock, override(language), patched_settings(told):
        generator: Any = SchemaGenerator()  # type: ignore[no-untyped-call]
        made: dict[str, Any] = generator.get_schema(request=None, public=True)
        return made


def only_ours(endpoints: list[Any], **kwargs: Any) -> list[Any]:
    """Leave out what else the project has of REST framework."""
    return [each for each in endpoints if issubclass(getattr(each[3], "cls", object), Endpoint)]


def with_problems(result: dict[str, Any], generator: Any, **kwargs: Any) -> dict[str, Any]:
    """Let each operation say what may go wrong."""
    schemas = result["components"]["schemas"]
    schemas.update(_problem_schemas())
    schema = {"$ref": "#/components/schemas/Problem"}
    for path in result["paths"].values():
        for method, operation in path.items():
            statuses = {*ALWAYS, *OF_OPERATIONS.get(operation["operationId"], ())}
            named = any(each["in"] == "path" for each in operation.get("parameters", ()))
            statuses.update(OF_ROWS if named else ())
            statuses.update(OF_WRITES if method != "get" else ())
            statuses.update(OF_BODIES if "requestBody" in operation else ())
            for status in sorted(statuses):
                example = problems.described(status, *examples.PROBLEMS[status])
                operation["responses"][f"{status}"] = {
                    "description": problems.phrase(status),
                    "content": {problems.MEDIA_TYPE: {"schema": schema, "example": example}},
                }
    return result


def with_anything(result: Any, *args: Any, **kwargs: Any) -> Any:
    """Let a field that may have any value, or null, have any value: null is one of them."""
    if isinstance(result, dict):
        if result.get("oneOf") == [{}, {"type": "null"}]:
            del result["oneOf"]
        for each in result.values():
            with_anything(each)
    elif isinstance(result, list):
        for each in result:
            with_anything(each)
    return result


def _problem_schemas() -> dict[str, Any]:
    """Return what a problem looks like, which no view's serializer says."""
    text = {"type": "string"}
    field = {"field": text, "code": text, "detail": text}
    members = {"type": text, "title": text, "status": {"type": "integer"}, "code": text}
    return {
        "Problem": {
            "type": "object",
            "description": _("What went wrong (RFC 9457). `code` is for programs."),
            "required": [*members, "detail"],
            "properties": {
                **members,
                "detail": text,
                "errors": {
                    "type": "array",
                    "items": {"type": "object", "required": [*field], "properties": field},
                },
            },
        }
    }
