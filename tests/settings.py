"""Conductor's settings, made quick for tests."""

from conductor_site.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
CELERY_BROKER_URL = "memory://"
# Connections of helper threads must not outlive a test.
DATABASES["default"]["CONN_MAX_AGE"] = 0  # noqa: F405
# Every test client makes the middleware anew, which would list all static files.
WHITENOISE_AUTOREFRESH = True
