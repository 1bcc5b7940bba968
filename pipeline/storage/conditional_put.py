"""The HTTP header that makes an object store write only new objects. Knows nothing of the content.

The pipeline always sends `If-None-Match: *`, which AWS S3, MinIO and Ceph RGW understand. For an
endpoint that expects another header, it is replaced just before the request is signed.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

# A storage option of this project, for a store whose host name does not show its kind: one of
# DIALECTS.
OPTION = "conditional_put"

# OSS: https://www.alibabacloud.com/help/en/oss/developer-reference/putobject answers 409
# FileAlreadyExists. The header has no effect in a bucket with versioning; the probe detects that.
# Google: https://cloud.google.com/storage/docs/xml-api/reference-headers: 0 means "no such object";
# answers 412.
# Neither store was available during development. The tests check the requests that are sent; at
# run time the probe checks whether the store obeys.
DIALECTS: Mapping[str, tuple[str, str]] = {
    "if-none-match": ("If-None-Match", "*"),
    "x-oss-forbid-overwrite": ("x-oss-forbid-overwrite", "true"),
    "x-goog-if-generation-match": ("x-goog-if-generation-match", "0"),
}
_BY_DOMAIN = {
    "aliyuncs.com": "x-oss-forbid-overwrite",
    "storage.googleapis.com": "x-goog-if-generation-match",
}
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # botocore reads them, in this order
_BODY_CODES = frozenset({"FileAlreadyExists", "PreconditionFailed"})


def dialect_of(endpoint: str) -> str:
    """The dialect of an endpoint URL, by its host; "" means AWS."""
    host = urlsplit(endpoint).hostname or ""
    for domain, dialect in _BY_DOMAIN.items():
        if host == domain or host.endswith("." + domain):
            return dialect
    return "if-none-match"


def endpoint_of(options: Mapping[str, Any]) -> str:
    """The endpoint URL that s3fs will use; "" means AWS."""
    named = options.get("endpoint_url") or (options.get("client_kwargs") or {}).get("endpoint_url")
    from_environment = (os.environ.get(name) for name in _ENDPOINTS)
    return str(named or next(filter(None, from_environment), ""))


def choose_dialect(options: Mapping[str, Any]) -> str:
    """The dialect that the options name, or that of their endpoint. Raises ValueError."""
    chosen = options.get(OPTION) or dialect_of(endpoint_of(options))
    if chosen not in DIALECTS:
        raise ValueError(f"storage option {OPTION}={chosen!r}: use one of {sorted(DIALECTS)}")
    return str(chosen)


def can_compare(dialect: str) -> bool:
    """Whether the endpoint also takes `If-Match`, to replace only the object that was read.

    AWS S3, MinIO and Ceph RGW do. OSS and Google compare other things than an ETag.
    """
    return dialect == "if-none-match"


def translator(dialect: str) -> Callable[..., None]:
    """A handler for botocore's event before-sign.s3.PutObject, which replaces the header."""
    name, value = DIALECTS[dialect]

    def translate(request: Any, **_: Any) -> None:
        if request.headers.get("If-None-Match") == "*":
            del request.headers["If-None-Match"]
            request.headers[name] = value

    return translate


def is_exists_error(error: OSError) -> bool:
    """Whether the store refused the write because the object exists already.

    s3fs raises FileExistsError only if the error document names the condition, as that of AWS and
    moto does. Ceph omits it, and s3fs raises a plain OSError. OSS answers 409.
    """
    status, code = _answer(error)
    return isinstance(error, FileExistsError) or status == 412 or code in _BODY_CODES


def is_conflict_error(error: OSError) -> bool:
    """Whether the store asks to try again because another conditional write runs (AWS: 409)."""
    return _answer(error)[0] == 409 and not is_exists_error(error)


def error_code(error: BaseException) -> str:
    """The store's code for the error, e.g. NoSuchBucket; "" if the store did not answer."""
    return _answer(error)[1]


def _answer(error: BaseException) -> tuple[int, str]:
    """(HTTP status, error code) of the store's answer; (0, "") if there was none."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code", ""))
