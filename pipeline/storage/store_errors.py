"""Turn the exceptions of filesystems into error types and clear messages. Opens nothing."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ErrorType, RecordingError
from pipeline.storage.redaction import redact

_MISSING = (FileNotFoundError, NotADirectoryError)
# S3 answers 403 InvalidObjectState for an object in Glacier; s3fs raises PermissionError for it.
_ARCHIVED = "InvalidObjectState"
# These libraries raise their own exceptions when a request gets no answer; few are OSErrors.
_CLIENTS = ("botocore", "aiobotocore", "aiohttp")


@contextmanager
def uri_in_errors(uri: str) -> Iterator[None]:
    """Add the URI to the message of every storage error.

    A built-in OSError keeps its class; an exception of the client libraries becomes an OSError. The
    `__cause__` stays the store's answer.
    """
    try:
        yield
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module in _CLIENTS:
            reason = f"no usable answer ({type(error).__name__}: {error})"
            raise OSError(redact(f"{uri}: {reason}")) from error
        if module != "builtins" or not isinstance(error, OSError):
            raise
        raise type(error)(redact(f"{uri}: {error}")) from error.__cause__ or error


def explain_store_error(error: Exception) -> RecordingError:
    """The RecordingError for any exception of a filesystem.

    Its kind is FileMissing, AccessDenied, Archived, BadUri or StoreUnavailable. s3fs turns 404, 403
    and 400 into built-in errors; 5xx, timeouts and lost connections have many types and may be
    temporary. fsspec's HTTP raises FileNotFoundError for everything; its cause has the reason.
    """
    for known in (error, error.__cause__, error.__context__):
        if isinstance(known, RecordingError):  # raised by http_guard
            return known
    message = redact(f"{type(error).__name__}: {error}")
    return RecordingError(_kind(error), message)


def _kind(error: Exception) -> str:
    code = getattr(error, "errno", 0)
    if _is_archived(error):
        return ErrorType.ARCHIVED
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return ErrorType.ACCESS_DENIED
    if isinstance(error, FileNotFoundError) and (kind := _http_kind(error.__cause__)):
        return kind
    if isinstance(error, _MISSING) or code in (errno.ELOOP, errno.ENAMETOOLONG):
        return ErrorType.FILE_MISSING
    # An unknown scheme, a NUL in the path, a name that no bucket can have
    refused = isinstance(error, ValueError | ImportError) or code == errno.EINVAL
    if refused or type(error).__name__ == "ParamValidationError":
        return ErrorType.BAD_URI
    return ErrorType.STORE_UNAVAILABLE


def _http_kind(cause: BaseException | None) -> str:
    """The error type for the cause of an HTTP error; "" if not HTTP, or if really not found."""
    status = getattr(cause, "status", 0)
    if status in (401, 403):
        return ErrorType.ACCESS_DENIED
    is_http = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
    return ErrorType.STORE_UNAVAILABLE if is_http and status not in (404, 410) else ""


def _is_archived(error: Exception) -> bool:
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else ""
    return code == _ARCHIVED or _ARCHIVED in str(error)
