"""Give everybody a username as the HTTP API has them; people sign in by e-mail."""

from __future__ import annotations

import re
import secrets

from django.conf import settings
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.state import StateApps

VALID = r"^[a-z0-9_]{3,30}$"


def rename(apps: StateApps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    people = apps.get_model("auth", "User").objects
    for user in people.exclude(username__regex=VALID).iterator():
        wanted = user.username.partition("@")[0].lower()
        stem = re.sub(r"[^a-z0-9_]+", "_", wanted).strip("_")[:24]
        stem = stem if len(stem) >= 3 else f"{stem}_user".lstrip("_")
        name = stem
        while people.filter(username=name).exists():
            name = f"{stem}_{secrets.token_hex(2)}"
        user.username = name
        user.save(update_fields=["username"])


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0008_people"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]
    operations = [migrations.RunPython(rename, migrations.RunPython.noop)]
