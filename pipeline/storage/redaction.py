"""Addresses and messages without the secrets in them. Knows how credentials look in a URI.

What is written down (tables, messages, logs) goes through here; what opens an object does not.
"""

import re

# Presigned URLs (AWS, Google, Aliyun, Azure's SAS) and what people put into queries by themselves.
# Whole names: "key" is a secret, "keyword" is not.
_NAMES = (
    r"x-(?:amz|goog|oss)-[\w-]+|awsaccesskeyid|googleaccessid|ossaccesskeyid|signature|expires|"
    r"policy|key-pair-id|sig|se|sp|sv|sr|ss|srt|st|spr|sip|skoid|sktid|skt|ske|sks|skv|"
    r"(?:[\w-]*[_-])?(?:token|secret|key|apikey|password|passwd|pwd|auth|credential|credentials)"
)
_PARAMETER = re.compile(rf"(?i)(?<=[?&;])({_NAMES})=[^&;#\s'\"<>]*")
# Azure names a container before the "@" (abfs://container@account/): only "user:password@" counts,
# but for http(s), where the user alone may be a token.
_USER = re.compile(
    r"(?i)\b(https?://)[^/?#\s'\"<>]+@|\b([a-z][a-z0-9+.-]*://)[^/?#\s'\"<>:@]*:[^/?#\s'\"<>]*@"
)


def public_uri(uri: str) -> str:
    """An address as it may be written down: no user, no credentials in the query.

    Two presigned URLs of one object come out the same, so keys do not change with the signature.
    What has neither "@" nor "?" in it stays as it is.
    """
    if "://" not in uri:
        return uri
    bare = _USER.sub(lambda found: found[1] or found[2], uri)
    address, mark, query = bare.partition("?")
    if not mark:
        return bare
    kept = [part for part in query.split("&") if not _PARAMETER.match(f"?{part}", 1)]
    return address + (mark + "&".join(kept) if kept else "")


def redact(text: str) -> str:
    """A message with *** in place of every credential in the addresses that it quotes."""
    text = _USER.sub(lambda found: f"{found[1] or found[2]}***@", text)
    return _PARAMETER.sub(r"\1=***", text)
