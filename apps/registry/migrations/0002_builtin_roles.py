"""The two roles that every organization has."""

from __future__ import annotations

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

PERMISSIONS = [
    "organization.read",
    "organization.write",
    "application.read",
    "application.write",
    "metric.read",
    "token.read",
    "token.write",
    "websocket.connect",
]


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    role = apps.get_model("registry", "Role")
    role.objects.get_or_create(
        organization=None,
        name="organization_admin",
        defaults={"permissions": PERMISSIONS},
    )
    role.objects.get_or_create(
        organization=None,
        name="organization_member",
        defaults={"permissions": [p for p in PERMISSIONS if p != "organization.write"]},
    )


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_initial")]
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
