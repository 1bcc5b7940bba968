"""What a filesystem raises, in words that help somebody. Knows exceptions, opens nothing."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ErrorType, RecordingError
from pipeline.storage.redaction import redact

_GONE = (FileNotFoundError, NotADirectoryError)
# S3 says 403 InvalidObjectState of an object in Glacier; s3fs makes a PermissionError of it.
_ARCHIVED = "InvalidObjectState"
# They have types of their own for a request that was never answered; few of them are OSErrors.
_CLIENTS = ("botocore", "aiobotocore", "aiohttp")


@contextmanager
def uri_in_errors(uri: str) -> Iterator[None]:
    """Every failure of a store becomes an OSError of the same kind that says of which object.

    Its cause stays what the store answered.
    """
    try:
        yield
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module in _CLIENTS:
            raise OSError(f"{uri}: no usable answer ({type(error).__name__}: {error})") from error
        if module != "builtins" or not isinstance(error, OSError):
            raise
        raise type(error)(f"{uri}: {error}") from error.__cause__ or error


def explain_store_error(error: Exception) -> RecordingError:
    """Whatever a filesystem raises: FileMissing, AccessDenied, Archived, BadUri, StoreUnavailable.

    s3fs turns 404, 403 and 400 into built-in errors; 5xx, timeouts and lost connections come in
    many types, and may pass. fsspec's HTTP says "not found" of everything; the cause knows more.
    """
    for known in (error, error.__cause__, error.__context__):
        if isinstance(known, RecordingError):  # of our own guard, see web
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
    if isinstance(error, _GONE) or code in (errno.ELOOP, errno.ENAMETOOLONG):
        return ErrorType.FILE_MISSING
    # An unknown scheme, a NUL in the path, a name that cannot be a bucket's
    refused = isinstance(error, ValueError | ImportError) or code == errno.EINVAL
    if refused or type(error).__name__ == "ParamValidationError":
        return ErrorType.BAD_URI
    return ErrorType.STORE_UNAVAILABLE


def _http_kind(cause: BaseException | None) -> str:
    """What HTTP really said; "" if it was not HTTP, or indeed not found."""
    status = getattr(cause, "status", 0)
    if status in (401, 403):
        return ErrorType.ACCESS_DENIED
    is_http = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")
    return ErrorType.STORE_UNAVAILABLE if is_http and status not in (404, 410) else ""


def _is_archived(error: Exception) -> bool:
    response = getattr(error.__cause__, "response", None) or {}
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else ""
    return code == _ARCHIVED or _ARCHIVED in str(error)
