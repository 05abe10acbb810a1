"""What can go wrong, by meaning. Each boundary translates these once, in one table."""

from __future__ import annotations


class ConductorError(Exception):
    """Base of every failure that we name.

    `code` is stable and machine readable; `message` is a sentence for a person;
    `details` are bound values, never secrets.
    """

    code = "error"
    # Whether the audit log tells of it already.
    is_audited = False

    def __init__(self, message: str = "", **details: object) -> None:
        super().__init__(message or self.code)
        self.message = message or self.code
        self.details = details


class NotFound(ConductorError):
    """It does not exist, or not for this actor."""

    code = "not_found"


class NotSignedIn(ConductorError):
    """Nobody is signed in; pages lead to the sign-in."""

    code = "not_signed_in"


class Forbidden(ConductorError):
    """The actor may see it but not do this."""

    code = "forbidden"


class InvalidInput(ConductorError):
    """The input breaks a rule; `details["field"]` names the field where known."""

    code = "invalid_input"


class TooManyRequests(ConductorError):
    """Too often; `details["retry_after_secs"]` says when it may be tried again."""

    code = "too_many_requests"


class Conflict(ConductorError):
    """Somebody else got there first, or the name is taken."""

    code = "conflict"


class DatabaseNotChosen(Conflict):
    """An application works on several databases, and a command names none of them."""

    code = "database_not_chosen"


class NoHealthyExecutor(ConductorError):
    """No process of the application (or of the version asked for) is connected."""

    code = "no_healthy_executor"


class EveryExecutorFailed(ConductorError):
    """Every executor that was tried failed to answer."""

    code = "every_executor_failed"


class ExecutorTimeout(EveryExecutorFailed):
    """An executor took the request and did not answer in time. It may still act."""

    code = "executor_timeout"


class ExecutorRefused(ConductorError):
    """The executor answered with an error; the message is its own, summarised."""

    code = "executor_refused"


class ProtocolError(ConductorError):
    """A frame is not what the executor protocol allows."""

    code = "protocol_error"


class UnsupportedByExecutor(ProtocolError):
    """The executor's SDK version does not know this message."""

    code = "unsupported_by_executor"
