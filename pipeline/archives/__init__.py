"""Find and read recordings inside tar, zip and parquet files. Knows nothing of decoding or tables.

An archive is such a file, local or in a store; a member is a recording in it, whose address is
`storage.address.member_uri`. Nothing is unpacked to disk.
"""
