"""Django's PostgreSQL backend with a pool that is bounded and has a reserve."""
