"""Remove credentials from URIs and messages. Opens nothing.

Every URI or message that is stored or printed (tables, errors, logs) passes through this module.
The URIs that open objects do not.
"""

import re

# Parameters of presigned URLs (AWS, Google, Aliyun, Azure's SAS), and names that people use for
# credentials. Only whole names match: "key" is a secret, "keyword" is not.
_NAMES = (
    r"x-(?:amz|goog|oss)-[\w-]+|awsaccesskeyid|googleaccessid|ossaccesskeyid|signature|expires|"
    r"policy|key-pair-id|sig|se|sp|sv|sr|ss|srt|st|spr|sip|skoid|sktid|skt|ske|sks|skv|"
    r"(?:[\w-]*[_-])?(?:token|secret|key|apikey|password|passwd|pwd|auth|credential|credentials)"
)
_PARAMETER = re.compile(rf"(?i)(?<=[?&;])({_NAMES})=[^&;#\s'\"<>]*")
# Azure has a container before the "@" (abfs://container@account/), so only "user:password@" is
# removed. In http(s) a user without a password is removed too: it may be a token.
_USER = re.compile(
    r"(?i)\b(https?://)[^/?#\s'\"<>]+@|\b([a-z][a-z0-9+.-]*://)[^/?#\s'\"<>:@]*:[^/?#\s'\"<>]*@"
)


def public_uri(uri: str) -> str:
    """A URI without its user and without the credentials in its query.

    Two presigned URLs of one object give the same result, so keys do not change with the signature.
    A URI without "@" and "?" is returned unchanged.
    """
    if "://" not in uri:
        return uri
    bare = _USER.sub(lambda match: match[1] or match[2], uri)
    address, mark, query = bare.partition("?")
    if not mark:
        return bare
    kept = [part for part in query.split("&") if not _PARAMETER.match(f"?{part}", 1)]
    return address + (mark + "&".join(kept) if kept else "")


def redact(text: str) -> str:
    """A message with *** in place of every credential in the URIs that it contains."""
    text = _USER.sub(lambda match: f"{match[1] or match[2]}***@", text)
    return _PARAMETER.sub(r"\1=***", text)
