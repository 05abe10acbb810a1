import django.db.models.deletion
from django.db import migrations, models

from apps.registry import chain

BATCH = 1_000

# An entry is never changed, and is deleted only where no chain holds it: retention moves
# the chain's end first, and with an organization its chain goes first. Emptying the
# whole table (TRUNCATE) is left to who may do that.
#
# SQLite makes a table anew to alter it, without its triggers: whoever alters it calls
# `guard_entries` again. A test looks for them.
_HELD = """EXISTS (
    SELECT 1 FROM registry_auditchain chain
    WHERE chain.organization_id = OLD.organization_id
    AND chain.removed_sequence < OLD.sequence
)"""
_REFUSAL = "The audit log is append-only."
GUARDS = {
    "postgresql": (
        f"""
        CREATE FUNCTION registry_guard_auditentry() RETURNS trigger AS $$
        BEGIN
            IF TG_OP = 'UPDATE' OR {_HELD} THEN
                RAISE EXCEPTION '{_REFUSAL}';
            END IF;
            RETURN OLD;
        END
        $$ LANGUAGE plpgsql
        """,
        """
        CREATE TRIGGER registry_auditentry_guard
        BEFORE UPDATE OR DELETE ON registry_auditentry
        FOR EACH ROW EXECUTE FUNCTION registry_guard_auditentry()
        """,
    ),
    "sqlite": (
        f"""
        CREATE TRIGGER registry_auditentry_guard_update
        BEFORE UPDATE ON registry_auditentry
        BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END
        """,
        f"""
        CREATE TRIGGER registry_auditentry_guard_delete
        BEFORE DELETE ON registry_auditentry WHEN {_HELD}
        BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END
        """,
    ),
}
UNGUARDS = {
    "postgresql": (
        "DROP TRIGGER registry_auditentry_guard ON registry_auditentry",
        "DROP FUNCTION registry_guard_auditentry()",
    ),
    "sqlite": (
        "DROP TRIGGER registry_auditentry_guard_update",
        "DROP TRIGGER registry_auditentry_guard_delete",
    ),
}


def guard_entries(apps, schema_editor):
    _execute(GUARDS, schema_editor)


def unguard_entries(apps, schema_editor):
    _execute(UNGUARDS, schema_editor)


def _execute(statements, schema_editor):
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        for statement in statements[connection.vendor]:
            cursor.execute(statement)


def chain_entries(apps, schema_editor):
    """Give the entries that are there their places, in the order they were written, and
    the names that the public API knows."""
    AuditEntry = apps.get_model("registry", "AuditEntry")
    AuditChain = apps.get_model("registry", "AuditChain")
    organizations = AuditEntry.objects.order_by("organization").values_list(
        "organization", flat=True
    )
    for organization_id in list(organizations.distinct()):
        ends = dict.fromkeys(chain.ENDS, 0) | {
            "organization_id": organization_id,
            "hash": "",
            "removed_hash": "",
        }
        entries = AuditEntry.objects.filter(organization=organization_id)
        last = 0
        while batch := list(entries.filter(pk__gt=last).order_by("pk")[:BATCH]):
            last = batch[-1].pk
            for entry in batch:
                _rename(entry)
                entry.sequence = ends["sequence"] + 1
                entry.previous_hash = ends["hash"]
                entry.hash = chain.digest(vars(entry))
                ends |= {"sequence": entry.sequence, "hash": entry.hash}
            _update(batch, schema_editor.connection)
        AuditChain.objects.create(**ends, seal=chain.seal(ends))
    if schema_editor.connection.vendor == "postgresql":
        # Checks that wait for the end would keep the table from being altered.
        schema_editor.execute("SET CONSTRAINTS ALL IMMEDIATE")


def _update(entries, connection):
    columns = (
        "subject_type",
        "target_type",
        "target_id",
        "sequence",
        "previous_hash",
        "hash",
    )
    to = ", ".join(f"{column} = %s" for column in columns)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE registry_auditentry SET {to} WHERE id = %s",
            [[getattr(e, column) for column in (*columns, "id")] for e in entries],
        )


def _rename(entry):
    if entry.subject_type == "token":
        entry.subject_type = "api_key"
    if entry.target_type == "invitation":
        entry.target_type = "user"
    if entry.target_type == "recovery" or (
        entry.target_type == "workflow" and "workflow_ids" in entry.details
    ):
        entry.target_type = "application"
        entry.target_id = entry.details["application_name"]


class Migration(migrations.Migration):
    dependencies = [
        ("registry", "0009_usernames"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditChain",
            fields=[
                (
                    "organization",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="audit_chain",
                        serialize=False,
                        to="registry.organization",
                    ),
                ),
                ("sequence", models.BigIntegerField(default=0)),
                ("hash", models.CharField(blank=True, max_length=64)),
                ("removed_sequence", models.BigIntegerField(default=0)),
                ("removed_hash", models.CharField(blank=True, max_length=64)),
                ("seal", models.CharField(blank=True, max_length=64)),
                (
                    "verified_at",
                    models.DateTimeField(blank=True, db_index=True, null=True),
                ),
                ("verified_sequence", models.BigIntegerField(default=0)),
                ("finding", models.CharField(blank=True, max_length=300)),
            ],
        ),
        migrations.RemoveIndex(
            model_name="auditentry",
            name="audit_org_newest",
        ),
        migrations.AddField(
            model_name="auditentry",
            name="actor_key",
            field=models.CharField(blank=True, max_length=16),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="hash",
            field=models.CharField(default="", max_length=64),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="auditentry",
            name="previous_hash",
            field=models.CharField(blank=True, max_length=64),
        ),
        migrations.AddField(
            model_name="auditentry",
            name="sequence",
            field=models.BigIntegerField(default=0),
            preserve_default=False,
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="emitted_at",
            field=models.DateTimeField(),
        ),
        migrations.AlterField(
            model_name="auditentry",
            name="organization",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="audit_entries",
                to="registry.organization",
            ),
        ),
        migrations.RunPython(chain_entries, migrations.RunPython.noop),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(
                fields=["organization", "emitted_at", "sequence"], name="audit_newest"
            ),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(
                fields=["organization", "operation", "emitted_at", "sequence"],
                name="audit_by_operation",
            ),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(
                fields=["organization", "subject_display", "emitted_at", "sequence"],
                name="audit_by_subject",
            ),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(
                fields=["organization", "subject_id", "emitted_at", "sequence"],
                name="audit_by_subject_id",
            ),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(
                fields=["organization", "target_id", "emitted_at", "sequence"],
                name="audit_by_target",
            ),
        ),
        migrations.AddConstraint(
            model_name="auditentry",
            constraint=models.UniqueConstraint(
                fields=("organization", "sequence"), name="audit_sequence_once"
            ),
        ),
        migrations.RunPython(guard_entries, unguard_entries),
    ]
