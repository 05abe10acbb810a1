"""Conductor's settings, made quick for tests."""

from conductor_site.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
CELERY_BROKER_URL = "memory://"
# Connections of helper threads must not outlive a test.
DATABASES["default"]["CONN_MAX_AGE"] = 0  # noqa: F405
