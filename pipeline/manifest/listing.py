"""Find the files that a URI stands for: one file, a glob, or the audio in a directory.

Knows names of files and links; opens no audio. What a listing leaves out is counted. A directory
that cannot be listed is an error, because its recordings would be missing without a word.
"""

import fnmatch
import json
import os
import posixpath
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from pipeline.archives.endings import ARCHIVE_SUFFIXES, AUDIO_SUFFIXES
from pipeline.errors import ManifestError
from pipeline.manifest.access import AllowedRoots, canonical_uri, check_allowed

_OWN = {
    "_log",
    "_bundles",
    "_runs",
    "_snapshots",
    "_checkpoints",
    "_probe",
    "_members",
}  # in an output
_RECORD = re.compile(r"(?:^|/)_log/\d{20}\.json$")  # the commit log of an output
_EXPORT = "export.json"  # the description of an export
_EXPORT_KEYS = {"format", "root", "seq", "fingerprint"}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_MAX_SHOWN = 10  # kinds of names in a message
_MAX_SUFFIX = 10  # characters; longer ones are no kind of file


@dataclass(slots=True)
class LeftOut:
    """What a listing left out, for the user to read. Complete when the listing is at its end."""

    wanted: tuple[str, ...] = AUDIO_SUFFIXES
    suffixes: Counter[str] = field(default_factory=Counter)
    hidden: Counter[str] = field(default_factory=Counter)
    ours: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)  # of Hugging Face's audiofolder

    def notes(self, uri: str) -> Iterator[str]:
        """A sentence for each reason."""
        for counts, what in (
            (self.suffixes, "do not have the name of audio"),
            (self.hidden, "are hidden (their names begin with a dot)"),
        ):
            if counts:
                most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_SHOWN]
                kinds = [f"{name} {n:,}" for name, n in most]
                more = ", ..." if len(counts) > _MAX_SHOWN else ""
                yield f"{uri}: left out {counts.total():,} files that {what}: " + (
                    ", ".join(kinds) + more
                )
        for paths, what in (
            (self.ours, "outputs or exports of this program"),
            (self.outside, "links to directories outside the allowed roots"),
            (self.directories, "directories; a glob names files, and /** all files below"),
        ):
            if paths:
                yield f"{uri}: left out {len(paths):,} {what}, for example {paths[0]}"
        if self.metadata:
            yield (
                f"{uri}: {self.metadata[0]} is not read; name it as the manifest to keep its "
                "columns (the ids stay the same)"
            )

    def count(self, name: str) -> None:
        """Count a file that does not have the name of audio."""
        if name in _METADATA:
            self.metadata.append(name)
        suffix = posixpath.splitext(name)[1].lower()
        is_kind = suffix.isprintable() and 1 < len(suffix) <= _MAX_SUFFIX
        self.suffixes[suffix if is_kind else "others"] += 1


class File(NamedTuple):
    """A file of a listing. `raw` is "" unless the name is no UTF-8; then `uri` only shows it."""

    uri: str
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The files that a URI stands for."""

    files: Iterator[File]
    is_audio: bool
    left_out: LeftOut


def find_files(fs: Any, path: str, uri: str, allowed: AllowedRoots) -> Found:
    """The files that `uri` stands for. Raises ManifestError, also while they are read."""
    left_out = LeftOut()
    is_local = isinstance(fs, LocalFileSystem)
    given, path = path, os.path.abspath(path) if is_local else fs._strip_protocol(path)
    if fs.isdir(path):
        found = _walk(path, uri, allowed, left_out) if is_local else _remote(fs, path, left_out)
        audio = (_file(fs, name) for name in found)
        first = next(audio, None)
        if first is not None:
            return Found(_chain(first, audio), True, left_out)
        return _archives_in(fs, path, uri, allowed)
    file = path if is_local else given  # the spelling is part of the ids
    files = [file] if fs.isfile(path) else _matching(fs, path, uri, left_out)
    if not files:
        raise ManifestError(f"{uri}: matches no file")
    is_audio = {name.lower().endswith(AUDIO_SUFFIXES) for name in files}
    if len(is_audio) > 1:
        raise ManifestError(f"{uri}: matches audio and other files; name only one kind")
    return Found(iter([_file(fs, name) for name in files]), is_audio.pop(), left_out)


def _archives_in(fs: Any, path: str, uri: str, allowed: AllowedRoots) -> Found:
    """The archives in a directory without audio. Raises ManifestError if there are none."""
    left_out = LeftOut(wanted=ARCHIVE_SUFFIXES)
    is_local = isinstance(fs, LocalFileSystem)
    found = _walk(path, uri, allowed, left_out) if is_local else _remote(fs, path, left_out)
    files = [_file(fs, name) for name in found]
    if not files:
        raise ManifestError(_without_audio(fs, path, uri))
    return Found(iter(files), False, left_out)


def _chain(first: File, rest: Iterator[File]) -> Iterator[File]:
    yield first
    yield from rest


def _file(fs: Any, path: str) -> File:
    if not isinstance(fs, LocalFileSystem):
        return File(canonical_uri(fs.unstrip_protocol(path)))
    try:
        path.encode()
    except UnicodeEncodeError:
        raw = os.fsencode(path)
        shown = raw.decode("utf-8", "backslashreplace")
        return File(f"{shown}~{blake2b(raw, digest_size=4).hexdigest()}", path)
    return File(path)


def _without_audio(fs: Any, path: str, uri: str) -> str:
    names = sorted(posixpath.basename(name.rstrip("/")) for name in fs.ls(path, detail=False))
    names = [name for name in names if not name.startswith(".")]
    found = ", ".join(map(_printable, names[:5])) or "nothing"
    hint = "; to use a manifest in it, name that file" if names else ""
    return f"{uri}: a directory without audio; it contains {found}{hint}"


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


# ----------------------------------------------------------------------- local directories


def _walk(root: str, uri: str, allowed: AllowedRoots, left_out: LeftOut) -> Iterator[str]:
    """Paths of the audio below `root`. Each directory once: under its own name, or by a link.

    Links to directories are followed last, and only to directories within the allowed roots.
    """
    seen: set[tuple[int, int]] = set()
    waiting, links = [root], deque[str]()
    while waiting or links:
        directory = waiting.pop() if waiting else links.popleft()
        status = _stat(directory)
        if status is None or (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        entries = _scan(directory, uri)
        names = {entry.name for entry in entries}
        is_output = "_log" in names and _is_output(directory)
        if directory != root and _EXPORT in names and _is_export(directory):
            left_out.ours.append(_printable(directory))
            continue
        inside: list[str] = []
        for entry in entries:
            if _is_directory(entry):
                if entry.name.startswith("."):
                    continue
                if is_output and entry.name in _OWN:
                    _add_once(left_out.ours, _printable(directory))
                elif not entry.is_symlink():
                    inside.append(entry.path)
                elif check_allowed(os.path.realpath(entry.path), allowed):
                    left_out.outside.append(_printable(entry.path))
                else:
                    links.append(entry.path)
            elif _is_audio(entry.name, left_out):
                yield entry.path
        waiting.extend(reversed(inside))


def _add_once(paths: list[str], path: str) -> None:
    if path not in paths[-1:]:
        paths.append(path)


def _is_audio(name: str, left_out: LeftOut) -> bool:
    is_audio = name.lower().endswith(left_out.wanted)
    if name.startswith("."):
        left_out.hidden[posixpath.splitext(name)[1].lower()] += is_audio
        left_out.hidden += Counter()  # without zeros
        return False
    if not is_audio:
        left_out.count(name)
    return is_audio


def _stat(path: str) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except FileNotFoundError:  # removed since its directory was listed
        return None


def _scan(directory: str, uri: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ManifestError(
            f"{uri}: {_printable(directory)} cannot be listed ({error.strerror}); its recordings "
            "would be left out. Make it readable, move it away, or name another directory"
        ) from error


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_output(directory: str) -> bool:
    try:
        return any(_RECORD.search(f"_log/{name}") for name in os.listdir(f"{directory}/_log"))
    except OSError:
        return False


def _is_export(directory: str) -> bool:
    try:
        return _describes_export(Path(directory, _EXPORT).read_bytes())
    except OSError:
        return False


def _describes_export(text: bytes) -> bool:
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and value.keys() >= _EXPORT_KEYS


# ------------------------------------------------------------------------ other filesystems


def _remote(fs: Any, root: str, left_out: LeftOut) -> Iterator[str]:
    """Paths of the audio below `root`, without our own outputs and exports."""
    paths = sorted(path for path in _find(fs, root) if not path.endswith("/"))
    outputs = {path.rpartition("/_log/")[0] for path in paths if _RECORD.search(path)}
    ours = {f"{output}/{name}/" for output in outputs for name in _OWN}
    for path in paths:
        directory, _, name = path.rpartition("/")
        if name == _EXPORT and directory != root and _describes_export(fs.cat_file(path)):
            ours.add(f"{directory}/")
            left_out.ours.append(directory)
    left_out.ours += sorted(outputs)
    for path in paths:
        inside = path[len(root.rstrip("/")) :] if path.startswith(root) else f"/{path}"
        directory = inside.rpartition("/")[0]
        if ours and _is_below(path, ours):
            continue
        if "/." not in directory and _is_audio(posixpath.basename(path), left_out):
            yield path


def _is_below(path: str, directories: set[str]) -> bool:
    parts = path.split("/")
    return any("/".join(parts[:end]) + "/" in directories for end in range(1, len(parts)))


def _find(fs: Any, root: str) -> Iterator[str]:
    """fs.find, but every error is raised: fsspec's own leaves such directories out."""
    if _lists_by_prefix(fs):
        yield from fs.find(root)
        return
    waiting = [root]
    while waiting:
        for entry in _ls(fs, waiting.pop()):
            if entry.is_directory:
                waiting.append(entry.path)
            else:
                yield entry.path


def _lists_by_prefix(fs: Any) -> bool:
    """Whether it finds all files below a directory in one listing, as object stores do."""
    general = {AbstractFileSystem.find, AsyncFileSystem._find}
    own = type(fs)._find if isinstance(fs, AsyncFileSystem) else type(fs).find
    return own not in general


class _Entry(NamedTuple):
    name: str
    path: str
    is_directory: bool


def _ls(fs: Any, directory: str) -> list[_Entry]:
    try:
        listed = fs.ls(directory, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    paths = {info["name"].rstrip("/"): info["type"] == "directory" for info in listed}
    paths.pop(directory.rstrip("/"), None)  # some stores list the directory itself
    return [_Entry(posixpath.basename(path), path, paths[path]) for path in sorted(paths)]


# ------------------------------------------------------------------------------------ globs


def _matching(fs: Any, pattern: str, uri: str, left_out: LeftOut) -> list[str]:
    if not any(wildcard in pattern for wildcard in "*?["):
        raise ManifestError(f"{uri}: no such file or directory")
    is_local = isinstance(fs, LocalFileSystem)
    if "http" in fs.protocol or ("**" in pattern and _lists_by_prefix(fs)):
        return sorted(path for path in fs.glob(pattern) if not path.endswith("/"))
    base, parts = "/" if pattern.startswith("/") else "", pattern.strip("/").split("/")
    scan = partial(_entries, uri=uri) if is_local else partial(_ls, fs)
    files = []
    for entry in _glob(_Glob(scan, os.path.realpath if is_local else str), base, parts, set()):
        if fs.isdir(entry):
            left_out.directories.append(_printable(entry))
        elif not is_local or os.path.lexists(entry):
            files.append(entry)
    if left_out.directories and not files:
        raise ManifestError(
            f"{uri}: matches only directories; name one, or add /** for their files"
        )
    return sorted(set(files))


def _entries(directory: str, uri: str) -> list[_Entry]:
    if not os.path.isdir(directory):
        return []
    found = _scan(directory, uri)
    return [_Entry(entry.name, entry.path, _is_directory(entry)) for entry in found]


class _Glob(NamedTuple):
    """How to list a directory, and its path without links."""

    scan: Callable[[str], list[_Entry]]
    real: Callable[[str], str]


def _glob(fs: _Glob, base: str, parts: Sequence[str], above: set[str]) -> Iterator[str]:
    """Paths below `base` that match the parts of a pattern; links to directories are followed.

    `above` are the directories that ** has entered: none of them again, so loops of links end.
    """
    part, rest = parts[0], parts[1:]
    if not re.search(r"[*?\[]", part):
        yield from _deeper(fs, posixpath.join(base, part), rest, above, is_directory=True)
    elif part == "**":
        yield from _below(fs, base, parts, above)
    else:
        matches = re.compile(fnmatch.translate(part)).match
        for entry in fs.scan(base):
            if matches(entry.name):
                yield from _deeper(fs, entry.path, rest, above, is_directory=entry.is_directory)


def _deeper(
    fs: _Glob, path: str, rest: Sequence[str], above: set[str], *, is_directory: bool
) -> Iterator[str]:
    if not rest:
        yield path
    elif is_directory:
        yield from _glob(fs, path, rest, above)


def _below(fs: _Glob, base: str, parts: Sequence[str], above: set[str]) -> Iterator[str]:
    """`**`: any number of directories, also none; at the end of a pattern: all files below."""
    real = fs.real(base)
    if real in above:
        return
    if parts[1:]:
        yield from _glob(fs, base, parts[1:], above)
    for entry in fs.scan(base):
        if entry.is_directory:
            yield from _glob(fs, entry.path, parts, above | {real})
        elif not parts[1:]:
            yield entry.path
