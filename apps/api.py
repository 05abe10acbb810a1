"""What every operation of the HTTP API shares: its schemas, its problems, its shape.

An operation is declared once, with `operation`: from that come its route, its part of
the OpenAPI document, and how its result is written. Names on the wire are camelCase;
names of schemas are the contract's (`docs/api.md`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from inspect import Signature, isclass, iscoroutinefunction, signature
from types import NoneType
from typing import Annotated, Any, ClassVar, TypeVar, get_args
from urllib.parse import quote, unquote

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from ninja import NinjaAPI, Router, Schema
from ninja.errors import HttpError, ValidationError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    Strict,
    TypeAdapter,
)
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from apps import errors

PROBLEM_TYPE = "application/problem+json"
JSON_TYPE = "application/json"
# A value that a client sent is told back no longer than this.
TOLD_BACK_CHARS = 200

# --- Schemas ---------------------------------------------------------------------

_CAMEL = ConfigDict(alias_generator=to_camel)


class _NullIsAbsence(BaseModel):
    """Describes a field whose default is None as one that is absent, never null."""

    nullable: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        found = handler(core_schema)
        properties = handler.resolve_ref_schema(found)["properties"]
        for name, field in cls.model_fields.items():
            one = properties[field.alias or name]
            if field.default is None:
                one.pop("default", None)
                if name not in cls.nullable and "anyOf" in one:
                    one.update(one.pop("anyOf")[0])
        return found


class Params(_NullIsAbsence, Schema):
    """Parameters of a path or a query; a query's unknown names are ignored."""

    model_config = _CAMEL


class Input(_NullIsAbsence, Schema):
    """A request's body. What it does not know is refused; a null is like nothing,
    except in a field of `nullable`, where it takes a value away."""

    # Only the names on the wire: `workflow_id` is as unknown as `workflowid`.
    model_config = ConfigDict(**_CAMEL, extra="forbid")

    schema_url: str | None = Field(
        default=None,
        alias="$schema",
        description="A URL to the JSON Schema for this object. Ignored.",
        exclude_if=lambda value: value is None,
        json_schema_extra={"format": "uri", "readOnly": True},
    )


class Output(_NullIsAbsence):
    """A response's object. Every field is written, null or not, except `omitted`."""

    model_config = ConfigDict(**_CAMEL, frozen=True, populate_by_name=True)


# Written only where it has a value.
def omitted(**more: Any) -> Any:
    return Field(default=None, exclude_if=lambda value: value is None, **more)


def _whole(bits: int, *extra: Any) -> Any:
    limit = 2 ** (bits - 1)
    described: JsonDict = {"format": f"int{bits}"}
    return Annotated[
        int, Field(ge=-limit, le=limit - 1, json_schema_extra=described), *extra
    ]


Bool = Annotated[bool, Strict()]
Int32 = _whole(32, Strict())
Int64 = _whole(64, Strict())
# A query holds text only, so a number is read from it.
QueryInt64 = _whole(64)


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("This time is beyond what clocks tell.") from None


def _rfc_3339(value: Any) -> Any:
    """Leave what is a time already; of texts take those only that the format allows.
    Numbers would pass for seconds since 1970."""
    if isinstance(value, datetime):
        return value
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError(
            "A time is written as in RFC 3339, for instance 2026-01-31T09:30:00Z."
        )
    return value


_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})",
    re.IGNORECASE,
)
Time = Annotated[AwareDatetime, AfterValidator(_in_utc), BeforeValidator(_rfc_3339)]


def _storable(value: str) -> str:
    if "\0" in value or value != _told(value):
        raise ValueError("A NUL, or half of a character, is in no name and no id.")
    return value


def _told(text: str) -> str:
    """JSON may hold half of a character; UTF-8 may not."""
    return text.encode("utf-8", "replace").decode()


# Names and ids: what PostgreSQL can store.
Text = Annotated[str, AfterValidator(_storable)]


# The paths, and below the parameters in them.
ORG = "/v2/orgs/{orgName}"
APP = f"{ORG}/apps/{{appName}}"
WORKFLOW = f"{APP}/workflows/{{workflowId}}"


class InOrg(Params):
    org_name: str = Field(pattern=r"^[a-z0-9_]+$", min_length=3, max_length=30)


class InApp(InOrg):
    app_name: str = Field(pattern=r"^[a-z0-9-_]+$", min_length=3, max_length=256)


class InWorkflow(InApp):
    workflow_id: Text


# --- Problems --------------------------------------------------------------------


class ErrorDetail(Output):
    """One thing that is wrong, and where."""

    location: str | None = omitted()
    message: str | None = omitted()
    value: Any = omitted()


class ErrorModel(Output):
    """A problem as RFC 9457 has it; the body of every answer that is not 2xx.

    Title, status and type are always sent, and required nowhere in the contract: a
    client that was generated from either document takes both.
    """

    model_config = ConfigDict(
        json_schema_extra=lambda schema: schema.pop("required", None)
    )

    title: str
    status: Annotated[int, Field(json_schema_extra={"format": "int64"})]
    detail: str | None = omitted()
    type: str = Field(json_schema_extra={"format": "uri"})
    instance: str | None = omitted(json_schema_extra={"format": "uri"})
    errors: list[ErrorDetail] | None = omitted()


# The one table of what an error is in HTTP; the first that fits.
_STATUS: tuple[tuple[type[errors.ConductorError], HTTPStatus], ...] = (
    (errors.NotSignedIn, HTTPStatus.UNAUTHORIZED),
    (errors.Forbidden, HTTPStatus.FORBIDDEN),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.InvalidInput, HTTPStatus.BAD_REQUEST),
    (errors.Conflict, HTTPStatus.CONFLICT),
    (errors.TooManyRequests, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.NoHealthyExecutor, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.EveryExecutorFailed, HTTPStatus.BAD_GATEWAY),
    (errors.ExecutorRefused, HTTPStatus.BAD_GATEWAY),
    (errors.ProtocolError, HTTPStatus.BAD_GATEWAY),
)


def problem(
    status: int, detail: str = "", details: list[ErrorDetail] | None = None
) -> HttpResponse:
    """Return an answer that says what is wrong."""
    known = HTTPStatus(status)
    body = ErrorModel(
        title=known.phrase,
        status=status,
        detail=detail or None,
        type="about:blank",
        errors=details,
    )
    response = HttpResponse(
        body.model_dump_json(by_alias=True), status=status, content_type=PROBLEM_TYPE
    )
    if status == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = 'Bearer realm="conductor"'
    if status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        response.setdefault("Retry-After", "10")
    return response


def problem_of(
    error: errors.ConductorError, request: HttpRequest | None = None
) -> HttpResponse:
    """Return the answer that a domain error is, with the place in the request of what
    it is about."""
    status = next(
        (s for kind, s in _STATUS if isinstance(error, kind)),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    details = None
    if field := error.details.get("field"):
        location = f"{_part_of(request)}.{to_camel(str(field))}"
        details = [ErrorDetail(location=location, message=error.message)]
    response = problem(status, error.message, details)
    if seconds := error.details.get("retry_after_secs"):
        response["Retry-After"] = str(seconds)
    return response


def _part_of(request: HttpRequest | None) -> str:
    """Where a request of this method has what its path has not."""
    is_read = request is not None and request.method in ("GET", "HEAD", "DELETE")
    return "query" if is_read else "body"


def problem_of_input(error: ValidationError) -> HttpResponse:
    """Return 422 with the place of each thing that breaks its schema."""
    details = [
        ErrorDetail(
            location=_location(one["loc"]),
            message=one["msg"],
            value=_told_back(one.get("input")),
        )
        for one in error.errors
    ]
    return problem(422, "The request breaks its schema.", details)


def _location(loc: tuple[str | int, ...]) -> str:
    """`body.limit`, `path.orgName`, `query.startTime`, `body.workflowIds[3]`."""
    # The second part is our own argument's name.
    parts = [loc[0], *loc[2:]] if loc[0] == "body" or len(loc) > 2 else list(loc)
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return _told(text.removeprefix("."))


def _told_back(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _told(value[:TOLD_BACK_CHARS])
    return None


# --- Declaring -------------------------------------------------------------------


def _bodies_to_omit(signed: Signature) -> list[str]:
    """Name the parameters that are a body which may be left out."""
    return [
        one.name
        for one in signed.parameters.values()
        if NoneType in (kinds := get_args(one.annotation))
        and any(isclass(kind) and issubclass(kind, Input) for kind in kinds)
    ]


def _refuse_null(request: HttpRequest, bodies: dict[str, Any]) -> None:
    """A body that may be left out is no null. Raises: ValidationError."""
    if request.body and None in bodies.values():
        message = "The body is null. Send an object, or no body at all."
        raise ValidationError([{"loc": ("body",), "msg": message}])


Handler = TypeVar("Handler", bound=Callable[..., Any])

# operation id → method
METHODS: dict[str, str] = {}


def operation(
    router: Router,
    method: str,
    path: str,
    operation_id: str,
    *,
    permission: str | None,
    tag: str,
    response: Any = None,
    status: int = 200,
    location: bool = False,
    media_types: Sequence[str] = (),
    needs_accounts: bool = False,
    is_extension: bool = False,
) -> Callable[[Handler], Handler]:
    """Declare one operation. The function returns a value of the type `response`, or an
    `HttpResponse` of its own; None where it is 204.

    `permission` is what the operation asks for, for the document: services and
    selectors do the asking. `needs_accounts` operations are not there without accounts
    (`CONDUCTOR_AUTH=none`). `media_types` are those of an answer that is text. A
    `{name}` of the path may hold any character.
    """
    extra: dict[str, Any] = {"x-permission": permission}
    if needs_accounts:
        extra["x-dbos-requires-oauth"] = True
    if is_extension:
        extra["x-conductor-extension"] = True
    if location:
        header = {"Location": {"schema": {"type": "string"}}}
        extra["responses"] = {status: {"headers": header}}
    if media_types:
        text = {one: {"schema": {"type": "string"}} for one in media_types}
        extra["responses"] = {status: {"content": text}}
    write = _writer(response, status)
    admit = _admit_with_accounts if needs_accounts else _admit

    async def aadmit(request: HttpRequest) -> bool:
        return admit(request)

    METHODS[operation_id] = method

    def declare(function: Handler) -> Handler:
        signed = signature(function, eval_str=True)
        optional = _bodies_to_omit(signed)

        def check(request: HttpRequest, values: dict[str, Any]) -> None:
            _refuse_null(request, {name: values[name] for name in optional})

        if iscoroutinefunction(function):

            @functools.wraps(function)
            async def run(request: HttpRequest, **values: Any) -> HttpResponseBase:
                check(request, values)
                return write(await function(request, **values))
        else:

            @functools.wraps(function)
            def run(request: HttpRequest, **values: Any) -> HttpResponseBase:
                check(request, values)
                return write(function(request, **values))

        # Annotations are names of the function's own module.
        run.__signature__ = signed  # type: ignore[attr-defined]
        router.api_operation(
            [method],
            path.replace("{", "{segment:"),
            operation_id=operation_id,
            url_name=operation_id,
            response={status: response},
            by_alias=True,
            tags=[tag],
            summary=function.__name__.replace("_", " ").capitalize(),
            openapi_extra=extra,
            # On the event loop what is no coroutine would get a thread.
            auth=aadmit if iscoroutinefunction(function) else admit,
        )(run)
        return function

    return declare


def _admit(request: HttpRequest) -> bool:
    """Runs before anything of the request is read. Raises: NotSignedIn."""
    caller = getattr(request, "caller", None)
    if caller is None or isinstance(caller, errors.NotSignedIn):
        raise caller or errors.NotSignedIn("Sign in first.")
    return True


def _admit_with_accounts(request: HttpRequest) -> bool:
    if settings.CONDUCTOR_AUTH == "none":
        raise errors.NotFound("There are no accounts: CONDUCTOR_AUTH is none.")
    return _admit(request)


def _writer(response: Any, status: int) -> Callable[[Any], HttpResponseBase]:
    if response is None:

        def empty(result: Any) -> HttpResponseBase:
            if isinstance(result, HttpResponseBase):
                return result
            answer = HttpResponse(status=status)
            del answer["Content-Type"]
            return answer

        return empty
    adapter = TypeAdapter(response)

    def write(result: Any) -> HttpResponseBase:
        if isinstance(result, HttpResponseBase):
            return result
        # A value of another type than declared is an error of ours, not a warning.
        body = adapter.dump_json(result, by_alias=True, warnings="error")
        return HttpResponse(body, status=status, content_type=JSON_TYPE)

    return write


def created(value: Output, location: str) -> HttpResponse:
    """201 with where the new thing is. Percent-encode what `location` is made of."""
    body = value.model_dump_json(by_alias=True)
    response = HttpResponse(body, status=201, content_type=JSON_TYPE)
    response["Location"] = location
    return response


class SegmentConverter:
    """One segment of a path, which reaches us still percent-encoded: an id may hold
    `/ ? # %` and unicode."""

    regex = r"[^/]+"

    def to_python(self, value: str) -> str:
        return unquote(value, errors="strict")

    def to_url(self, value: str) -> str:
        raise NotImplementedError("The API's paths are written by its clients.")


# --- Answering -------------------------------------------------------------------


def segment_path(path: str | bytes) -> str:
    """Return a path with every segment encoded in one way, so that routes match what a
    client encoded more than it had to. Raises: NotFound for what is no UTF-8."""
    text = path.decode("latin1") if isinstance(path, bytes) else path
    try:
        parts = [unquote(part, errors="strict") for part in text.split("/")]
    except UnicodeDecodeError:
        raise errors.NotFound("The path is not UTF-8.") from None
    if any("\0" in part for part in parts):
        raise errors.NotFound("No name holds a NUL.")
    return "/".join(quote(part, safe="") for part in parts)


def _explain(request: HttpRequest, failure: errors.ConductorError) -> HttpResponse:
    """Also leave the failure with the request, for the audit log."""
    request.failure = failure  # type: ignore[attr-defined]
    return problem_of(failure, request)


def add_error_handlers(api: NinjaAPI) -> None:
    """Make every failure inside an operation a problem."""
    api.exception_handler(errors.ConductorError)(_explain)
    api.exception_handler(ValidationError)(lambda _, exc: problem_of_input(exc))
    api.exception_handler(HttpError)(lambda _, exc: problem(exc.status_code, str(exc)))


class Explained(HttpResponse):
    """An answer that says what is wrong in the words of a protocol of its own."""


def as_problem(response: HttpResponseBase) -> HttpResponseBase:
    """Return the answer itself, or the problem that an error of a framework is."""
    if (
        response.status_code < 400
        or response.get("Content-Type") == PROBLEM_TYPE
        or isinstance(response, Explained)
    ):
        return response
    answer = problem(response.status_code)
    if "Allow" in response:
        answer["Allow"] = response["Allow"]
    return answer
