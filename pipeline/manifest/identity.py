"""The address of a recording, to compare and to name it. Opens nothing.

Two questions with two answers: whether two rows are one recording (`identities`, used for work keys
and duplicates), and what an id may show of an address (`names`).
"""

from collections.abc import Callable
from hashlib import blake2b

import pyarrow as pa

from pipeline.arrow import Column, pc
from pipeline.manifest.access import may_contain
from pipeline.storage.redaction import identity_uri, public_uri, redact_addresses

# Only these texts can hold a user, a query or a fragment.
_SUSPECT = r"(?is)(://|https?:/).*[@?#]"
_HASH_BYTES = 8  # rows of one web page that differ only in a hidden value get different ids


def identities(uris: Column) -> Column:
    """`identity_uri` of a column: the address without users and signatures. Never store it."""
    return _changed(uris, identity_uri)


def names(uris: Column) -> Column:
    """The addresses as ids show them; see `name_of`."""
    return _changed(uris, name_of)


def redacted(texts: Column) -> Column:
    """Texts of any column, without the credentials of the addresses in them; nulls stay."""
    return _changed(texts, _redact_cell)


def name_of(uri: str) -> str:
    """The address as it may be written down, as the default recording_id.

    Where a value is hidden, a hash of the whole identity follows, so that ?user=1 and ?user=2 get
    two ids. A new signature of the same object gives the same id.
    """
    identity, shown = identity_uri(uri), public_uri(uri)
    if identity == shown:
        return shown
    return f"{shown}~{blake2b(identity.encode(), digest_size=_HASH_BYTES).hexdigest()}"


def _redact_cell(text: str) -> str:
    is_address = "://" in text and not any(character.isspace() for character in text)
    return public_uri(text) if is_address else redact_addresses(text)


def _changed(texts: Column, change: Callable[[str], str]) -> Column:
    """Call `change` only for the texts that may contain credentials."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if not may_contain(texts, b"@", b"?", b"#"):
        return texts
    suspect = pc.fill_null(pc.match_substring_regex(texts, _SUSPECT), False)
    changed = [change(text) for text in texts.filter(suspect).to_pylist()]
    return (
        pc.replace_with_mask(texts, suspect, pa.array(changed, pa.string())) if changed else texts
    )
