"""Who exists and who may: organizations, members, applications, keys, the audit log."""

from __future__ import annotations

from datetime import datetime

from allauth.idp.oidc.models import Client, Token
from django.conf import settings
from django.core.validators import (
    DomainNameValidator,
    MaxValueValidator,
    MinLengthValidator,
    MinValueValidator,
    RegexValidator,
)
from django.db import models
from django.db.models.functions import Now
from django.utils import timezone


class Permission(models.TextChoices):
    """Every permission. A role or an API key holds a list of them."""

    ORGANIZATION_READ = "organization.read"
    ORGANIZATION_WRITE = "organization.write"
    APPLICATION_READ = "application.read"
    APPLICATION_WRITE = "application.write"
    # Of its own strength: an import runs code in Python executors.
    WORKFLOW_IMPORT = "workflow.import"
    METRIC_READ = "metric.read"
    TOKEN_READ = "token.read"
    TOKEN_WRITE = "token.write"
    WEBSOCKET_CONNECT = "websocket.connect"


organization_name = RegexValidator(
    r"\A[a-z0-9_]{3,30}\Z",
    "Use 3 to 30 lowercase letters, digits and underscores.",
)
application_name = RegexValidator(
    r"\A[a-z0-9_-]{3,256}\Z",
    "Use 3 to 256 lowercase letters, digits, dashes and underscores.",
)
role_name = RegexValidator(
    r"\A[a-zA-Z0-9_]{3,30}\Z", "Use 3 to 30 letters, digits and underscores."
)
AT_LEAST_ONE = [MinValueValidator(1)]


def default_executor_timeout_secs() -> int:
    return int(settings.CONDUCTOR_EXECUTOR_TIMEOUT_SECS)


class Profile(models.Model):
    """What a person told about themselves that Django's user has no place for."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True
    )
    company = models.CharField(max_length=150, blank=True)

    def __str__(self) -> str:
        return str(self.user)


class Organization(models.Model):
    """The tenant. Everything else belongs to exactly one."""

    name = models.CharField(max_length=30, unique=True, validators=[organization_name])
    created_at = models.DateTimeField(db_default=Now())
    audit_log_retention_days = models.PositiveIntegerField(
        default=90, validators=[MinValueValidator(7), MaxValueValidator(3650)]
    )
    allows_unsigned_imports = models.BooleanField(
        default=False, help_text="Import what this Conductor did not export."
    )

    def __str__(self) -> str:
        return self.name


class Role(models.Model):
    """A named set of permissions; built in (no organization) or an organization's."""

    ADMIN = "organization_admin"
    MEMBER = "organization_member"

    organization = models.ForeignKey(
        Organization, models.CASCADE, null=True, blank=True, related_name="roles"
    )
    name = models.CharField(max_length=30, validators=[role_name])
    permissions = models.JSONField(default=list, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"], name="role_name_once"
            ),
            models.UniqueConstraint(
                fields=["name"],
                condition=models.Q(organization=None),
                name="builtin_role_name_once",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_builtin(self) -> bool:
        return self.organization_id is None


class Membership(models.Model):
    """A person in an organization, with exactly one role there."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships"
    )
    organization = models.ForeignKey(
        Organization, models.CASCADE, related_name="memberships"
    )
    role = models.ForeignKey(Role, models.PROTECT, related_name="memberships")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["user", "organization"], name="membership_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization}"


class Invitation(models.Model):
    """A one-time link into an organization. Only the hash of its secret is kept."""

    organization = models.ForeignKey(
        Organization, models.CASCADE, related_name="invitations"
    )
    role = models.ForeignKey(Role, models.PROTECT, related_name="invitations")
    email = models.EmailField(blank=True)
    secret_hash = models.CharField(max_length=64, unique=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
    )
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    accepted_at = models.DateTimeField(null=True, blank=True)
    accepted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
    )
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"invitation to {self.organization}"

    def is_open(self, now: datetime) -> bool:
        return not (self.accepted_at or self.revoked_at) and now < self.expires_at


class DomainClaim(models.Model):
    """An organization's claim on an e-mail domain: once approved, people who register
    with a verified address of exactly that domain become its members."""

    class Status(models.TextChoices):
        PENDING = "pending"
        APPROVED = "approved"
        DENIED = "denied"

    organization = models.ForeignKey(
        Organization, models.CASCADE, related_name="domain_claims"
    )
    domain = models.CharField(
        max_length=253,
        validators=[MinLengthValidator(4), DomainNameValidator(accept_idna=False)],
    )
    status = models.CharField(
        max_length=8, choices=Status.choices, default=Status.PENDING
    )
    requested_by = models.CharField(max_length=254)
    requested_at = models.DateTimeField(db_default=Now())
    decided_by = models.CharField(max_length=254, blank=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    decision_note = models.CharField(max_length=254, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "domain"], name="domain_claimed_once"
            ),
            # Who only asks for a domain keeps nobody else from getting it.
            models.UniqueConstraint(
                fields=["domain"],
                condition=models.Q(status="approved"),
                name="domain_of_one_organization",
            ),
        ]

    def __str__(self) -> str:
        return self.domain


class Application(models.Model):
    """A registered DBOS application; its name equals the SDK's application name."""

    organization = models.ForeignKey(
        Organization, models.CASCADE, related_name="applications"
    )
    name = models.CharField(max_length=256, validators=[application_name])
    created_at = models.DateTimeField(db_default=Now())
    executor_timeout_secs = models.PositiveIntegerField(
        default=default_executor_timeout_secs,
        validators=[MinValueValidator(1), MaxValueValidator(86_400)],
        help_text="How long a disconnected executor may take to come back.",
    )
    private_mode = models.BooleanField(
        default=False, help_text="Keep nothing about this application's workflows."
    )
    # Completed workflows beyond so many, or started so long ago, are removed; those not
    # completed so long after they were created are cancelled. None: never.
    gc_rows_threshold = models.BigIntegerField(
        null=True, blank=True, validators=AT_LEAST_ONE
    )
    gc_time_threshold_ms = models.BigIntegerField(
        null=True, blank=True, validators=AT_LEAST_ONE
    )
    global_timeout_ms = models.BigIntegerField(
        null=True, blank=True, validators=AT_LEAST_ONE
    )
    store_payloads_days = models.PositiveIntegerField(null=True, blank=True)
    # No column: which of its databases whoever asks means, by its label; "" for none.
    chosen_database: str = ""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "name"], name="application_name_once"
            )
        ]

    def __str__(self) -> str:
        return self.name


class ApiKey(models.Model):
    """A `dbos_…` secret with permissions. Only its SHA-256 and its prefix remain."""

    organization = models.ForeignKey(
        Organization, models.CASCADE, related_name="api_keys"
    )
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, unique=True)
    secret_hash = models.CharField(max_length=64)
    permissions = models.JSONField(default=list)
    all_applications = models.BooleanField(default=True)
    applications = models.ManyToManyField(
        Application, blank=True, related_name="api_keys"
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
    )
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            # The name of a revoked key may be given to another.
            models.UniqueConstraint(
                fields=["organization", "name"],
                condition=models.Q(revoked_at=None),
                name="api_key_name_once",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    def is_usable(self, now: datetime) -> bool:
        return self.revoked_at is None and (
            self.expires_at is None or now < self.expires_at
        )


class Device(models.Model):
    """A program that a person signed in by a code, and that acts in their name.

    It has one access and one refresh token at a time, which allauth's provider keeps.
    Without a refresh token it is signed out.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="devices"
    )
    client = models.ForeignKey(Client, models.CASCADE, related_name="+")
    access_token = models.OneToOneField(
        Token, models.SET_NULL, null=True, related_name="+"
    )
    refresh_token = models.OneToOneField(
        Token, models.SET_NULL, null=True, related_name="+"
    )
    source_ip = models.CharField(max_length=45, blank=True)
    user_agent = models.CharField(max_length=256, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.client.name} of {self.user}"


class SigningKey(models.Model):
    """The private key that signs ID tokens, encrypted. There is one row."""

    encrypted_pem = models.TextField()
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"signing key of {self.created_at:%Y-%m-%d}"


class AuditChain(models.Model):
    """The ends of an organization's chain of audit entries.

    Stands before the entries: with its chain an organization's log is deleted first,
    for an entry that a chain holds is deleted by nobody (see the triggers).
    """

    organization = models.OneToOneField(
        Organization, models.CASCADE, primary_key=True, related_name="audit_chain"
    )
    # Of the last entry.
    sequence = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, blank=True)
    # Of the last entry that retention removed; the chain is verified from there.
    removed_sequence = models.BigIntegerField(default=0)
    removed_hash = models.CharField(max_length=64, blank=True)
    # Of all of these, with SECRET_KEY.
    seal = models.CharField(max_length=64, blank=True)
    # What the last verification found.
    verified_at = models.DateTimeField(null=True, blank=True, db_index=True)
    verified_sequence = models.BigIntegerField(default=0)
    finding = models.CharField(max_length=300, blank=True)

    def __str__(self) -> str:
        return f"audit log of {self.organization} to #{self.sequence}"


class AuditEntry(models.Model):
    """What was done or tried, by whom. Written with the change, never changed: each
    holds the hash of the one before it in its organization. See `chain`."""

    class Outcome(models.TextChoices):
        SUCCESS = "success"
        FAILURE = "failure"
        DENIED = "denied"

    # The indexes begin with it; one more of its own would only cost.
    organization = models.ForeignKey(
        Organization, models.CASCADE, related_name="audit_entries", db_index=False
    )
    # 1, 2, 3 … in each organization, without gaps.
    sequence = models.BigIntegerField()
    emitted_at = models.DateTimeField()
    operation = models.CharField(max_length=64)
    outcome = models.CharField(
        max_length=8, choices=Outcome.choices, default=Outcome.SUCCESS
    )
    subject_type = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=64, blank=True)
    subject_display = models.CharField(max_length=254, blank=True)
    # The prefix of the API key that the subject is: dbos_<prefix>_….
    actor_key = models.CharField(max_length=16, blank=True)
    target_type = models.CharField(max_length=32, blank=True)
    target_id = models.CharField(max_length=512, blank=True)
    source_ip = models.CharField(max_length=45, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    user_agent = models.CharField(max_length=256, blank=True)
    details = models.JSONField(default=dict)
    previous_hash = models.CharField(max_length=64, blank=True)
    hash = models.CharField(max_length=64)

    class Meta:
        verbose_name_plural = "audit entries"
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "sequence"], name="audit_sequence_once"
            )
        ]
        # Each filter of the list with its order; benchmarks/audit.py measures them.
        indexes = [
            models.Index(
                fields=["organization", *one, "emitted_at", "sequence"], name=name
            )
            for name, one in (
                ("audit_newest", ()),
                ("audit_by_operation", ("operation",)),
                ("audit_by_subject", ("subject_display",)),
                ("audit_by_subject_id", ("subject_id",)),
                ("audit_by_target", ("target_id",)),
            )
        ]

    def __str__(self) -> str:
        return f"{self.operation} by {self.subject_display}"
