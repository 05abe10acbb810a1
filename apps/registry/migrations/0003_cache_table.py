"""The table of the cache, which Django's own migrations leave to a command."""

from __future__ import annotations

from django.core.management import call_command
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps


def create(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    database = schema_editor.connection.alias
    call_command("createcachetable", database=database, verbosity=0)


class Migration(migrations.Migration):
    dependencies = [("registry", "0002_builtin_roles")]
    operations = [migrations.RunPython(create, migrations.RunPython.noop)]
