"""How each object store is asked to write only what is not there. Knows headers, not what is sent.

The pipeline always says `If-None-Match: *`, as AWS S3, MinIO and Ceph RGW understand it; where the
endpoint speaks another dialect, the header is translated just before the request is signed.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

# Storage option of this project, for a store behind a host name of its own: one of DIALECTS.
OPTION = "conditional_put"

# https://www.alibabacloud.com/help/en/oss/developer-reference/putobject: answers 409
# FileAlreadyExists; without effect in a bucket with versioning, which the probe then finds out.
# https://cloud.google.com/storage/docs/xml-api/reference-headers: 0 means "no such object"; 412.
# Neither can be reached from where this was built: tested at the wire, decided by the probe.
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
    """The dialect of an endpoint URL, by its host; "" is AWS."""
    host = urlsplit(endpoint).hostname or ""
    for domain, dialect in _BY_DOMAIN.items():
        if host == domain or host.endswith("." + domain):
            return dialect
    return "if-none-match"


def endpoint_of(options: Mapping[str, Any]) -> str:
    """The endpoint URL that s3fs will use; "" is AWS."""
    named = options.get("endpoint_url") or (options.get("client_kwargs") or {}).get("endpoint_url")
    from_environment = (os.environ.get(name) for name in _ENDPOINTS)
    return str(named or next(filter(None, from_environment), ""))


def choose_dialect(options: Mapping[str, Any]) -> str:
    """The dialect that the options name or imply. Raises ValueError for an unknown name."""
    chosen = options.get(OPTION) or dialect_of(endpoint_of(options))
    if chosen not in DIALECTS:
        raise ValueError(f"storage option {OPTION}={chosen!r}: use one of {sorted(DIALECTS)}")
    return str(chosen)


def translator(dialect: str) -> Callable[..., None]:
    """A handler for botocore's event before-sign.s3.PutObject."""
    name, value = DIALECTS[dialect]

    def translate(request: Any, **_: Any) -> None:
        if request.headers.get("If-None-Match") == "*":
            del request.headers["If-None-Match"]
            request.headers[name] = value

    return translate


def says_exists(error: OSError) -> bool:
    """Whether the store refused because the object is there already.

    s3fs says FileExistsError only if the error document names the condition, as AWS and moto do;
    Ceph leaves it out and the same answer is a bare OSError. OSS answers 409.
    """
    status, code = _answer(error)
    return isinstance(error, FileExistsError) or status == 412 or code in _BODY_CODES


def says_conflict(error: OSError) -> bool:
    """Whether another conditional write was under way, so that nothing is decided (AWS: 409)."""
    return _answer(error)[0] == 409 and not says_exists(error)


def error_code(error: BaseException) -> str:
    """What the store calls the error, e.g. NoSuchBucket; "" if it did not answer."""
    return _answer(error)[1]


def _answer(error: BaseException) -> tuple[int, str]:
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(response.get("Error", {}).get("Code", ""))
