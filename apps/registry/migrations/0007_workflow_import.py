"""Imports: a permission that the built-in admin gets, and what it guards against."""

from __future__ import annotations

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

PERMISSION = "workflow.import"


def grant(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    role = apps.get_model("registry", "Role")
    admin = role.objects.get(organization=None, name="organization_admin")
    if PERMISSION not in admin.permissions:
        admin.permissions.append(PERMISSION)
        admin.save(update_fields=["permissions"])


class Migration(migrations.Migration):
    dependencies = [("registry", "0006_dbosctl")]
    operations = [
        migrations.AddField(
            model_name="organization",
            name="allows_unsigned_imports",
            field=models.BooleanField(
                default=False, help_text="Import what this Conductor did not export."
            ),
        ),
        migrations.RunPython(grant, migrations.RunPython.noop),
    ]
