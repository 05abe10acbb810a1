"""Every setting of Conductor, read from the environment. See `.env.example`.

Fails closed: a value that cannot be parsed, or an unsafe combination, stops the start.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from django.core.exceptions import ImproperlyConfigured
from pydantic import ValidationError

from apps.registry import issuers
from conductor_site import env
from conductor_site.logging import build_logging

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Mode and stores -------------------------------------------------------------
DATABASE_URL = env.envsecret("DATABASE_URL", "")
REDIS_URL = env.envsecret("REDIS_URL", "")
if bool(DATABASE_URL) != bool(REDIS_URL):
    missing = "REDIS_URL" if DATABASE_URL else "DATABASE_URL"
    raise ImproperlyConfigured(
        f"Services mode needs both DATABASE_URL and REDIS_URL; {missing} is not set. "
        "Set neither for embedded mode."
    )
CONDUCTOR_EMBEDDED = not DATABASE_URL
DATA_DIR = Path(env.envstr("CONDUCTOR_DATA_DIR", str(BASE_DIR / ".data"))).resolve()

DEBUG = env.envbool("DEBUG", False)
HOST = env.envstr("HOST", "127.0.0.1")
PORT = env.envint("PORT", 8090)


def _secret_key() -> str:
    """SECRET_KEY of the environment; in embedded mode one made once and kept."""
    given = env.envsecret("SECRET_KEY", "")
    if given:
        return given
    if not CONDUCTOR_EMBEDDED:
        raise ImproperlyConfigured(
            "SECRET_KEY is not set. Services mode needs one that all processes share: "
            'python -c "import secrets; print(secrets.token_urlsafe(50))"'
        )
    path = DATA_DIR / "secret_key"
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            path.chmod(0o600)
            file.write(secrets.token_urlsafe(50))
    except FileExistsError:
        pass
    return path.read_text(encoding="utf-8").strip()


SECRET_KEY = _secret_key()
# Former ones, by which signatures and the seals of audit logs are still believed.
SECRET_KEY_FALLBACKS = env.envlist("SECRET_KEY_FALLBACKS", [])


# Of each process, for requests and tasks; Conductor's own threads have others.
DATABASE_POOL_SIZE = env.envcount("DATABASE_POOL_SIZE", 8)
DATABASE_POOL_WAIT_SECS = env.envfloat("DATABASE_POOL_WAIT_SECS", 15.0)


def _database() -> dict[str, Any]:
    if CONDUCTOR_EMBEDDED:
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA_DIR / "conductor.sqlite3",
            # A connection costs nobody anything, and opening one some milliseconds.
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                # Readers never wait for the writer, and a transaction that will write
                # takes its lock at the start, where waiting for it is still possible.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    # Wants psycopg, which embedded mode does not load.
    from conductor_site.database.recorded import RecordedConnection

    url = urlparse(DATABASE_URL)
    if url.scheme not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured("DATABASE_URL must begin with postgres://")
    return {
        "ENGINE": "conductor_site.database",
        "NAME": unquote(url.path.lstrip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "",
        "PORT": str(url.port or ""),
        # What is handed back to the pool is open still, and checked when it is taken.
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": True,
        "POOL_WAIT_SECS": DATABASE_POOL_WAIT_SECS,
        "OPTIONS": {
            "connect_timeout": 5,
            # A server that vanished without a word is noticed within some 15 s, also by
            # a query that waits for its answer.
            "keepalives_idle": 5,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            "pool": {
                "connection_class": RecordedConnection,
                "min_size": 0,
                "max_size": DATABASE_POOL_SIZE,
                "max_idle": 60,
                "max_lifetime": 1_800,
                # To make one; the wait for one that is in use is POOL_WAIT_SECS.
                "timeout": 6,
                # Asked for anew by whoever comes next, with no growing delay.
                "reconnect_timeout": 1,
            },
        },
    }


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Conductor -------------------------------------------------------------------
CONDUCTOR_AUTH = env.envchoice("CONDUCTOR_AUTH", "password", ("password", "none"))
CONDUCTOR_ALLOW_INSECURE = env.envbool("CONDUCTOR_ALLOW_INSECURE", False)
CONDUCTOR_SIGNUP = env.envchoice(
    "CONDUCTOR_SIGNUP", "open", ("open", "invite", "closed")
)
# Who approves a claim on an e-mail domain: a verified address there, or staff only.
CONDUCTOR_DOMAIN_CLAIMS = env.envchoice(
    "CONDUCTOR_DOMAIN_CLAIMS", "verified", ("verified", "staff")
)
CONDUCTOR_EXECUTOR_TIMEOUT_SECS = env.envint("CONDUCTOR_EXECUTOR_TIMEOUT_SECS", 60)
CONDUCTOR_SWEEP_SECS = env.envfloat("CONDUCTOR_SWEEP_SECS", 2.0)
CONDUCTOR_SNAPSHOT_SECS = env.envfloat("CONDUCTOR_SNAPSHOT_SECS", 15.0)
# Metrics are of whole minutes; this is how often those that are over are asked for.
CONDUCTOR_METRICS_PERIOD_SECS = env.envfloat("CONDUCTOR_METRICS_PERIOD_SECS", 60.0)
CONDUCTOR_METRICS_RETENTION_DAYS = env.envcount("CONDUCTOR_METRICS_RETENTION_DAYS", 15)
# Opens `/metrics`, the health of all of Conductor; without one it is for staff only.
CONDUCTOR_METRICS_TOKEN = env.envsecret("CONDUCTOR_METRICS_TOKEN", "")
CONDUCTOR_MAX_BODY_BYTES = env.envcount("CONDUCTOR_MAX_BODY_BYTES", 10 * 2**20)
# How many proxies stand before every server and append to X-Forwarded-For.
CONDUCTOR_TRUSTED_PROXIES = env.envint("CONDUCTOR_TRUSTED_PROXIES", 0)
if CONDUCTOR_TRUSTED_PROXIES < 0:
    raise ImproperlyConfigured("CONDUCTOR_TRUSTED_PROXIES must not be negative.")
# Of an executor's answer. Exports of large workflows may need more.
CONDUCTOR_MAX_MESSAGE_BYTES = env.envcount("CONDUCTOR_MAX_MESSAGE_BYTES", 16 * 2**20)
# Of all the answers that each server process is receiving; one organization's may be a
# quarter of it.
CONDUCTOR_RECEIVE_BUDGET_BYTES = env.envcount(
    "CONDUCTOR_RECEIVE_BUDGET_BYTES", 8 * CONDUCTOR_MAX_MESSAGE_BYTES
)
if CONDUCTOR_RECEIVE_BUDGET_BYTES < CONDUCTOR_MAX_MESSAGE_BYTES:
    raise ImproperlyConfigured(
        "CONDUCTOR_RECEIVE_BUDGET_BYTES must not be less than "
        "CONDUCTOR_MAX_MESSAGE_BYTES."
    )

# Quotas. Of connections, each server process counts its own.
CONDUCTOR_MAX_EXECUTORS = env.envcount("CONDUCTOR_MAX_EXECUTORS", 20_000)
CONDUCTOR_MAX_CONNECTIONS_PER_APPLICATION = env.envcount(
    "CONDUCTOR_MAX_CONNECTIONS_PER_APPLICATION", 20_000
)
CONDUCTOR_MAX_CONNECTIONS_PER_KEY = env.envcount(
    "CONDUCTOR_MAX_CONNECTIONS_PER_KEY", 20_000
)
CONDUCTOR_MAX_CONNECTIONS_PER_ORGANIZATION = env.envcount(
    "CONDUCTOR_MAX_CONNECTIONS_PER_ORGANIZATION", 30_000
)
# How long what is over is kept.
CONDUCTOR_RECOVERY_RETENTION_DAYS = env.envcount(
    "CONDUCTOR_RECOVERY_RETENTION_DAYS", 90
)
CONDUCTOR_COMMAND_RETENTION_DAYS = env.envcount("CONDUCTOR_COMMAND_RETENTION_DAYS", 90)
CONDUCTOR_REJECTED_RETENTION_DAYS = env.envcount(
    "CONDUCTOR_REJECTED_RETENTION_DAYS", 30
)

# What each server process takes of one address. A proxy has one address, too, unless
# CONDUCTOR_TRUSTED_PROXIES says that it is one.
CONDUCTOR_IDENTITY_REQUESTS_PER_MINUTE = env.envcount(
    "CONDUCTOR_IDENTITY_REQUESTS_PER_MINUTE", 240
)
CONDUCTOR_ACCOUNT_REQUESTS_PER_MINUTE = env.envcount(
    "CONDUCTOR_ACCOUNT_REQUESTS_PER_MINUTE", 60
)
CONDUCTOR_WRONG_KEYS_PER_MINUTE = env.envcount("CONDUCTOR_WRONG_KEYS_PER_MINUTE", 120)
CONDUCTOR_MAX_OPEN_PAGES_PER_ADDRESS = env.envcount(
    "CONDUCTOR_MAX_OPEN_PAGES_PER_ADDRESS", 2_000
)
CONDUCTOR_MAX_OPEN_PAGES_PER_PERSON = env.envcount(
    "CONDUCTOR_MAX_OPEN_PAGES_PER_PERSON", 200
)
# Of the connection's own address, also behind a trusted proxy: the request that would
# name another one is not here yet.
CONDUCTOR_MAX_UNFINISHED_REQUESTS = env.envcount(
    "CONDUCTOR_MAX_UNFINISHED_REQUESTS", 2_000
)
# For all of a request's head, and then for all of its body.
CONDUCTOR_REQUEST_HEAD_SECS = env.envfloat("CONDUCTOR_REQUEST_HEAD_SECS", 30.0)
CONDUCTOR_REQUEST_BODY_SECS = env.envfloat("CONDUCTOR_REQUEST_BODY_SECS", 60.0)

# --- Django ----------------------------------------------------------------------
ALLOWED_HOSTS = env.envlist("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.envlist("CSRF_TRUSTED_ORIGINS", [])
ROOT_URLCONF = "conductor_site.urls"
ASGI_APPLICATION = "conductor_site.asgi.application"

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.idp.oidc",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "channels",
    "django_htmx",
    "conductor_site",
    "apps.registry",
    "apps.executors",
    "apps.workflows",
    "apps.monitoring",
]

MIDDLEWARE = [
    # First, for it hands on nothing of the HTTP API.
    "conductor_site.middleware.api_middleware",
    "conductor_site.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "conductor_site.middleware.SecurityHeadersMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "conductor_site.middleware.UnstorableTextMiddleware",
    # Inside the one that answers for cookies that no database takes.
    "conductor_site.gate.AcquaintanceMiddleware",
    "conductor_site.middleware.ErrorTranslationMiddleware",
]
if CONDUCTOR_AUTH == "none":
    MIDDLEWARE.insert(-1, "apps.registry.middleware.LocalUserMiddleware")

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "conductor_site.context.console",
            ],
        },
    }
]

# --- Accounts --------------------------------------------------------------------
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
ACCOUNT_ADAPTER = "apps.registry.adapter.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = env.envchoice(
    "ACCOUNT_EMAIL_VERIFICATION",
    "mandatory" if env.envstr("EMAIL_HOST", "") else "optional",
    ("mandatory", "optional", "none"),
)
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_SESSION_REMEMBER = True
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = "Conductor"
# Without a mail server nobody can verify an address; a second factor is possible still.
MFA_ALLOW_UNVERIFIED_EMAIL = not env.envstr("EMAIL_HOST", "")

# Conductor as an OpenID provider, for programs that a person signs in by a code.
IDP_OIDC_ADAPTER = "apps.registry.provider.ProviderAdapter"
IDP_OIDC_ACCESS_TOKEN_EXPIRES_IN = 3_600
# Counted anew with every use: a program that rests for so long is signed out.
IDP_OIDC_REFRESH_TOKEN_EXPIRES_IN = 30 * 86_400
# Long enough to sign in first, with a second factor.
IDP_OIDC_DEVICE_CODE_EXPIRES_IN = 600
IDP_OIDC_DEVICE_CODE_INTERVAL = 5
IDP_OIDC_RATE_LIMITS = {"device_code": "30/m/ip", "device_user_code": "10/m/user"}


def _oidc_providers() -> tuple[issuers.Issuer, ...]:
    try:
        return issuers.parse(env.envsecret("CONDUCTOR_OIDC_PROVIDERS", ""))
    except ValidationError as exc:
        wrong = exc.errors(include_input=False, include_url=False)
        places = "; ".join(f"{one['loc']}: {one['msg']}" for one in wrong)
        raise ImproperlyConfigured(f"CONDUCTOR_OIDC_PROVIDERS: {places}") from None


# Other OpenID providers, by which people may sign in.
CONDUCTOR_OIDC_PROVIDERS = _oidc_providers()
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "APPS": [provider.as_app() for provider in CONDUCTOR_OIDC_PROVIDERS],
        "OAUTH_PKCE_ENABLED": True,
    }
}
SOCIALACCOUNT_ADAPTER = "apps.registry.adapter.SocialAccountAdapter"
# Only over an address that is verified there and here (SocialAccountAdapter).
SOCIALACCOUNT_EMAIL_AUTHENTICATION = True
SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_REQUESTS_TIMEOUT = 5

LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "registry:organization_home"
ACCOUNT_LOGOUT_REDIRECT_URL = "landing"

EMAIL_HOST = env.envstr("EMAIL_HOST", "")
EMAIL_BACKEND = (
    "django.core.mail.backends.smtp.EmailBackend"
    if EMAIL_HOST
    else "django.core.mail.backends.console.EmailBackend"
)
EMAIL_PORT = env.envint("EMAIL_PORT", 587)
EMAIL_HOST_USER = env.envstr("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env.envsecret("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = env.envbool("EMAIL_USE_TLS", True)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.envstr("DEFAULT_FROM_EMAIL", "conductor@localhost")

# Counts sign-in attempts for all processes, and for every sign-in the database is
# needed anyway.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "conductor_cache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    },
    # Of one process: answers that many ask for within the same seconds.
    "memory": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 100},
    },
}

# --- Cookies and transport -------------------------------------------------------
# Behind TLS (the usual production) set CONDUCTOR_HTTPS=1.
CONDUCTOR_HTTPS = env.envbool("CONDUCTOR_HTTPS", False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = CONDUCTOR_HTTPS
SESSION_COOKIE_NAME = "conductor_session"
CSRF_COOKIE_NAME = "conductor_csrf"
SECURE_HSTS_SECONDS = 31_536_000 if CONDUCTOR_HTTPS else 0
SECURE_PROXY_SSL_HEADER = (
    ("HTTP_X_FORWARDED_PROTO", "https") if CONDUCTOR_HTTPS else None
)
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = CONDUCTOR_MAX_BODY_BYTES
# Headroom over the longest form: one thousand ticked workflow ids.
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2_000

# --- Static files ----------------------------------------------------------------
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = BASE_DIR / "staticfiles"
# Served from where they lie: no collectstatic step stands between clone and start.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False

# --- Channels and Celery ---------------------------------------------------------
# Layers carry hints to browsers only (design: the hop between processes).
CHANNEL_LAYERS: dict[str, dict[str, Any]] = (
    {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    if CONDUCTOR_EMBEDDED
    else {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            # redis-py 8 times idle reads out after 5 s unless told otherwise.
            "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": None}]},
        }
    }
)

CELERY_BROKER_URL = "memory://" if CONDUCTOR_EMBEDDED else REDIS_URL
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = (
    # kombu's default makes every in-process task wait up to a second.
    {"polling_interval": 0.02}
    if CONDUCTOR_EMBEDDED
    else {"socket_keepalive": True, "socket_timeout": 30, "health_check_interval": 10}
)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "conductor"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_BEAT_SCHEDULER = "conductor_site.beat:BoundedScheduler"
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
CELERY_TIMEZONE = "UTC"


def _every(seconds: float) -> dict[str, Any]:
    """A beat entry whose messages die when the next one is due, so that an outage of
    the workers leaves no backlog behind."""
    return {"schedule": seconds, "options": {"expires": max(seconds, 1.0)}}


CELERY_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "sweep-executors": {
        "task": "executors.sweep",
        **_every(CONDUCTOR_SWEEP_SECS),
    },
    "forget-unused-databases": {
        "task": "executors.forget_unused_databases",
        **_every(3_600.0),
    },
    "sync-snapshots": {
        "task": "workflows.sync_snapshots",
        **_every(CONDUCTOR_SNAPSHOT_SECS),
    },
    # Looks whose turn it is; when that comes is up to the period.
    "collect-metrics": {
        "task": "monitoring.collect_metrics",
        **_every(min(max(CONDUCTOR_METRICS_PERIOD_SECS / 4, 0.5), 5.0)),
    },
    "forget-expired-tokens": {
        "task": "registry.forget_expired_tokens",
        **_every(3_600.0),
    },
    "expire-audit-entries": {
        "task": "registry.expire_audit_entries",
        **_every(600.0),
    },
    "verify-audit-log": {
        "task": "registry.verify_audit_log",
        **_every(60.0),
    },
    "close-abandoned-commands": {
        "task": "workflows.close_abandoned_commands",
        **_every(60.0),
    },
    "forget-old-recoveries": {"task": "executors.forget_old", **_every(600.0)},
    "forget-old-commands": {"task": "workflows.forget_old_commands", **_every(600.0)},
}

LOGGING = build_logging(
    level=env.envstr("LOG_LEVEL", "INFO"), log_format=env.envstr("LOG_FORMAT", "text")
)
