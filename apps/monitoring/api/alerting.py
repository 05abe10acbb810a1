"""Operations of the HTTP API: alerting rules."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from django.http import HttpRequest
from ninja import Path, Router
from pydantic import (
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    Strict,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from apps.api import APP, InApp, Input, Int32, Output, Text, Time, operation
from apps.monitoring import selectors
from apps.monitoring.models import AlertingRule as RuleRow
from apps.monitoring.services import alerting
from apps.registry.callers import application_in
from apps.registry.models import Permission

router = Router()

TAG = "Alerting"
RULES = f"{APP}/alerting-rules"
RuleType = Literal["WorkflowFailure", "SlowQueue", "UnresponsiveApplication"]
# A day is the longest that a rule looks back.
Secs = Annotated[int, Field(ge=1, le=86_400), Strict()]
Name = Annotated[Text, Field(max_length=255)]


class InRule(InApp):
    rule_id: Text


class _Metadata(Input):
    """The contract leaves its members open, so both spellings are known."""

    model_config = ConfigDict(populate_by_name=True)


class WorkflowFailureMetadata(_Metadata):
    """So many failures within the period, of one workflow's name or of any. Names may
    also be spelled in snake_case."""

    workflow_name: Name | None = None
    threshold: Annotated[int, Field(ge=1, le=2**31 - 1), Strict()]
    period_secs: Secs


class SlowQueueMetadata(_Metadata):
    """A workflow waits so long, on one queue or on any. Names may also be spelled in
    snake_case."""

    queue_name: Name | None = None
    threshold_secs: Secs


class UnresponsiveApplicationMetadata(_Metadata):
    """No executor is connected, or none answers."""


Metadata = WorkflowFailureMetadata | SlowQueueMetadata | UnresponsiveApplicationMetadata
_METADATA: dict[RuleType, type[Input]] = {
    "WorkflowFailure": WorkflowFailureMetadata,
    "SlowQueue": SlowQueueMetadata,
    "UnresponsiveApplication": UnresponsiveApplicationMetadata,
}


class CreateAlertInputBody(Input):
    """A rule, and who is to hear of it: the same application where nobody is named."""

    rule_type: RuleType
    rule_metadata: Metadata
    min_interval_secs: Int32 | None = None
    receiving_app_name: Text | None = None

    @field_validator("rule_metadata", mode="wrap")
    @classmethod
    def _fits_its_type(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Any:
        """Checked, and kept as it was sent."""
        if rule_type := info.data.get("rule_type"):
            _METADATA[rule_type].model_validate(value)
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Also say which metadata goes with which type."""
        found = super().__get_pydantic_json_schema__(core_schema, handler)
        body = handler.resolve_ref_schema(found)
        metadata = body["properties"]["ruleMetadata"]["anyOf"]
        body["allOf"] = [
            {
                "if": {"properties": {"ruleType": {"const": rule_type}}},
                "then": {"properties": {"ruleMetadata": one}},
            }
            for rule_type, one in zip(_METADATA, metadata, strict=True)
        ]
        # The contract has any value there, and so have clients in Go made from it.
        body["properties"]["ruleMetadata"]["x-go-type"] = "interface{}"
        return found


class AlertingRule(Output):
    """A rule as it was made. `lastFiredAt` is null until it fires."""

    id: str
    app_id: str
    receiving_app_id: str
    rule_type: RuleType
    rule_metadata: Any
    min_interval_secs: Int32 | None
    last_fired_at: Time | None


@operation(
    router,
    "GET",
    RULES,
    "listAlertingRules",
    permission=Permission.APPLICATION_READ,
    tag=TAG,
    response=list[AlertingRule],
)
def list_alerting_rules(request: HttpRequest, path: Path[InApp]) -> list[AlertingRule]:
    """The oldest first."""
    _, application = application_in(request, path, Permission.APPLICATION_READ)
    return [_written(row) for row in selectors.alerting_rules_of(application)]


@operation(
    router,
    "POST",
    RULES,
    "createAlertingRule",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    response=AlertingRule,
    status=201,
)
def create_alerting_rule(
    request: HttpRequest, path: Path[InApp], body: CreateAlertInputBody
) -> AlertingRule:
    """What is to be told, and to which application. It is told from the next time
    on."""
    actor, application = application_in(request, path, None)
    rule = alerting.create_rule(
        actor=actor,
        application=application,
        rule_type=body.rule_type,
        rule_metadata=body.rule_metadata,  # type: ignore[arg-type]
        min_interval_secs=body.min_interval_secs,
        receiving_application_name=body.receiving_app_name,
    )
    return _written(rule)


@operation(
    router,
    "DELETE",
    f"{RULES}/{{ruleId}}",
    "deleteAlertingRule",
    permission=Permission.APPLICATION_WRITE,
    tag=TAG,
    status=204,
)
def delete_alerting_rule(request: HttpRequest, path: Path[InRule]) -> None:
    """Nobody is told by it again."""
    actor, application = application_in(request, path, None)
    alerting.delete_rule(actor=actor, application=application, rule_id=path.rule_id)


def _written(row: RuleRow) -> AlertingRule:
    return AlertingRule(
        id=str(row.pk),
        app_id=str(row.application_id),
        receiving_app_id=str(row.receiving_application_id),
        rule_type=cast("RuleType", row.rule_type),
        rule_metadata=row.rule_metadata,
        min_interval_secs=row.min_interval_secs,
        last_fired_at=row.last_fired_at,
    )
