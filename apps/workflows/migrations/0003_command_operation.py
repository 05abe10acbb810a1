from django.db import migrations, models
from django.db.models import F, Value
from django.db.models.functions import Concat, Now


def name_operations(apps, schema_editor):
    """What was a kind is an operation. The orders of before were audited when they were
    given: nobody has to close those that are open."""
    commands = apps.get_model("workflows", "WorkflowCommand").objects
    commands.update(
        operation=Concat(Value("workflow."), F("kind")), target_type="workflow"
    )
    commands.filter(state="SENT").update(
        state="FAILED",
        error="Conductor was updated before the answer came.",
        finished_at=Now(),
    )
    if schema_editor.connection.vendor == "postgresql":
        # Checks that wait for the end would keep the table from being altered.
        schema_editor.execute("SET CONSTRAINTS ALL IMMEDIATE")


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0003_cache_table"),
        ("workflows", "0002_snapshot_sync_and_indexes"),
    ]

    operations = [
        migrations.AddField(
            model_name="workflowcommand",
            name="operation",
            field=models.CharField(default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="workflowcommand",
            name="target_type",
            field=models.CharField(default="", max_length=32),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="workflowcommand",
            name="target_id",
            field=models.CharField(blank=True, max_length=512),
        ),
        migrations.AddField(
            model_name="workflowcommand",
            name="actor",
            field=models.JSONField(default=dict),
        ),
        migrations.RunPython(name_operations, migrations.RunPython.noop),
        migrations.RemoveField(model_name="workflowcommand", name="actor_display"),
        migrations.RemoveField(model_name="workflowcommand", name="kind"),
        migrations.AddIndex(
            model_name="workflowcommand",
            index=models.Index(
                condition=models.Q(("state", "SENT")),
                fields=["created_at"],
                name="command_sent",
            ),
        ),
    ]
