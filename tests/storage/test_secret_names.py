"""Every name of a query parameter that counts as a credential, one by one."""

import pytest

from pipeline.storage.redaction import public_uri, redact

# https://docs.aws.amazon.com (SigV4, SigV2, CloudFront), cloud.google.com/storage/docs
# (signed URLs), alibabacloud.com (OSS) and learn.microsoft.com (SAS, user delegation SAS)
SIGNED = [
    *("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Signature"),
    *("X-Amz-Security-Token", "X-Amz-SignedHeaders", "X-Goog-Signature", "X-Goog-Credential"),
    *("x-oss-signature", "x-oss-credential", "AWSAccessKeyId", "GoogleAccessId"),
    *("OSSAccessKeyId", "Signature", "Expires", "Policy", "Key-Pair-Id"),
]
AZURE = [
    *("sig", "se", "sp", "sv", "sr", "ss", "srt", "st", "spr", "sip"),
    *("skoid", "sktid", "skt", "ske", "sks", "skv"),
]
BY_HAND = [
    *("token", "secret", "key", "apikey", "password", "passwd", "pwd", "auth", "credential"),
    *("credentials", "access_token", "api-key", "client_secret", "db_password", "x-auth", "my_pwd"),
]
HARMLESS = [
    *("id", "keyword", "monkey", "page", "version", "versionId", "generation", "authors"),
    *("tokenizer", "secretary", "policyholder", "signatures", "expiresin", "s", "sigma", "se2"),
]


@pytest.mark.parametrize("name", [*SIGNED, *AZURE, *BY_HAND])
def test_a_credential_is_never_written_down(name: str) -> None:
    for spelling in (name, name.lower(), name.upper()):
        uri = f"https://host/a.wav?first=1&{spelling}=s3cr%2Ft&id=5"
        assert public_uri(uri) == "https://host/a.wav?first=1&id=5"
        assert public_uri(f"https://host/a.wav?{spelling}=s3cr%2Ft") == "https://host/a.wav"
        expected = f"GET https://host/a.wav?first=1&{spelling}=***&id=5 failed"
        assert redact(f"GET {uri} failed") == expected


@pytest.mark.parametrize("name", HARMLESS)
def test_a_name_that_only_looks_like_one_stays(name: str) -> None:
    uri = f"https://host/a.wav?{name}=1"
    assert public_uri(uri) == redact(uri) == uri


def test_a_user_without_a_password_is_a_credential_on_the_web_only() -> None:
    assert redact("https://ghp_token@host/a") == "https://***@host/a"
    assert redact("abfs://container@account/a") == "abfs://container@account/a"
    assert public_uri("abfs://container@account/a") == "abfs://container@account/a"


def test_a_password_may_be_empty_or_hold_odd_signs() -> None:
    assert public_uri("ftp://user:@host/a") == "ftp://host/a"
    assert public_uri("https://us%40er:p%3Aw!@host/a?b=c@d") == "https://host/a?b=c@d"
