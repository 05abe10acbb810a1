"""Conductor's settings, made quick for tests."""

import atexit
import shutil
import tempfile

from conductor_site.settings import *  # noqa: F403
from conductor_site.settings import CONDUCTOR_EMBEDDED, DATABASES

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
CELERY_BROKER_URL = "memory://"
# Every test client makes the middleware anew, which would list all static files.
WHITENOISE_AUTOREFRESH = True
if CONDUCTOR_EMBEDDED:
    # A file as in real life: threads that share one in memory lock each other out.
    _home = tempfile.mkdtemp(prefix="conductor-test-")
    atexit.register(shutil.rmtree, _home, ignore_errors=True)
    DATABASES["default"]["ENGINE"] = "tests.sqlite"
    DATABASES["default"]["TEST"] = {"NAME": f"{_home}/test.sqlite3"}
else:
    # What a pool holds open would keep the test database from being dropped; tests of
    # the pool start the real server.
    DATABASES["default"]["OPTIONS"].pop("pool")
