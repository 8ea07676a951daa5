"""Sources of published weights: a local folder, the hub's cache, or the hub itself.

A local folder mirrors the hub: `<models_dir>/<owner>/<repository>/<file>`, which is what
`hf download <owner>/<repository> --local-dir <models_dir>/<owner>/<repository>` makes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ipadapter_demo.errors import ModelError, some_of
from ipadapter_demo.settings import is_repository

Report = Callable[[str, float], None]  # (what is being fetched, share done from 0 to 1)
Locate = Callable[["Hub"], Path]  # the local folder of files on the hub, fetched if need be


def no_report(text: str, share: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """Files of one repository on the Hugging Face hub, at a pinned revision where one is known.

    `folder` is the part of the repository they lie in; `megabytes` their size, about; `sha256` the
    hash in hexadecimal that a file must have, for those where one is known.
    """

    repo: str
    files: tuple[str, ...]
    folder: str = ""
    revision: str | None = None
    megabytes: int = 0
    sha256: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def paths(self) -> tuple[str, ...]:
        """Inside the repository."""
        return tuple(f"{self.folder}/{file}" if self.folder else file for file in self.files)


# Whoever reads a model does without these: CLIP's own preprocessing and markers are then taken.
OPTIONAL = (
    "feature_extractor/preprocessor_config.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer_2/special_tokens_map.json",
)


def served_by(path: str) -> tuple[str, ...]:
    """The names under which people have the wanted weights, the wanted one first: in half
    precision or plain, as `.safetensors` or `.bin`. Of any other file, its own name alone."""
    folder, slash, name = path.rpartition("/")
    stem, _, suffix = name.rpartition(".")
    if suffix not in ("safetensors", "bin"):
        return (path,)
    base, half = stem.removesuffix(".fp16"), stem.endswith(".fp16")
    safe = "model" if base == "pytorch_model" else base
    pickled = "pytorch_model" if base == "model" else base  # as transformers calls it
    names = [
        f"{known}{variant}.{kind}"
        for kind, known in (("safetensors", safe), ("bin", pickled))
        for variant in ((".fp16", "") if half else ("", ".fp16"))
    ]
    return tuple(folder + slash + each for each in dict.fromkeys([name, *names]))


def file_at(folder: Path, path: str) -> Path | None:
    """The file below `folder` that serves for `path`, under whichever of its names."""
    found = (folder / name for name in served_by(path))
    return next((file for file in found if file.is_file()), None)


def weights_at(folder: Path, path: str) -> list[Path]:
    """The file `path` below `folder`, or the index of its shards with all of these; nothing where
    one is missing. The names are those that diffusers and transformers write."""
    whole = folder / path
    if whole.is_file():
        return [whole]
    stem, _, suffix = whole.name.rpartition(".")
    half = stem.endswith(".fp16")
    for end in ("index.fp16.json", "fp16.index.json") if half else ("index.json",):
        index = whole.with_name(f"{stem.removesuffix('.fp16')}.{suffix}.{end}")
        if index.is_file():
            shards = _shards(index)
            if shards and all(shard.is_file() for shard in shards):
                return [index, *shards]
    return []


def _shards(index: Path) -> list[Path]:
    """The files that an index names; none for one that cannot be read."""
    try:
        return sorted(
            {index.with_name(name) for name in json.loads(index.read_text())["weight_map"].values()}
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def local_folder(hub: Hub, models_dir: Path | None) -> Path | None:
    """The folder that already holds all the files, from the root: below `models_dir`, or in the
    hub's cache."""
    mirrored = _mirror(hub, models_dir)
    if mirrored is not None and not _missing(hub, mirrored):
        return (mirrored / hub.folder).absolute()
    cached = _cache(hub)
    return None if cached is None or _missing(hub, cached) else cached / hub.folder


def _mirror(hub: Hub, models_dir: Path | None) -> Path | None:
    """The repository's own folder below `models_dir`, the one with the fewest files missing."""
    if models_dir is None:
        return None
    roots = (models_dir / hub.repo, models_dir / hub.repo.replace("/", "--"))
    return min(roots, key=lambda root: len(_missing(hub, root)))


def _cache(hub: Hub) -> Path | None:
    """The hub's cached snapshot of the repository, if it has any of the files."""
    from huggingface_hub import try_to_load_from_cache

    for path in (name for wanted in hub.paths for name in served_by(wanted)):
        cached = try_to_load_from_cache(hub.repo, path, revision=hub.revision)
        if isinstance(cached, str):
            return _root(Path(cached), path)
    return None


def _missing(hub: Hub, root: Path) -> list[str]:
    """The paths for which nothing below `root` serves."""
    return [
        path
        for path, file in zip(hub.paths, hub.files, strict=True)
        if file not in OPTIONAL and not any(weights_at(root, name) for name in served_by(path))
    ]


def of_repository(repo: str, like: Hub, models_dir: Path | None) -> Hub:
    """The files of another repository that do what those of `like` do: half precision where it has
    them, else the plain ones. What neither it nor its mirror has is asked for and so missed by
    name if it is weights, and left out if it is not: whoever reads the parts needs few of those.

    Raises ModelError for what is no repository's name, and where it cannot be looked at.
    """
    from huggingface_hub import HfApi, constants

    if not is_repository(repo):
        raise ModelError(
            "base must be a folder in diffusers' layout, a .safetensors file, or "
            f"owner/name on the hub, got {repo!r}, which is none of them"
        )
    other = replace(like, repo=repo, revision=None, megabytes=0, sha256={})
    if local_folder(other, models_dir) is not None:
        return other
    try:
        there = set(HfApi(endpoint=constants.ENDPOINT).list_repo_files(repo))
    except Exception as error:  # the hub's client raises errors of many libraries
        raise ModelError(_how_to_get(other, models_dir, error)) from error
    chosen = [
        next((name for name in served_by(file) if name in there), None) for file in like.files
    ]
    plain = [file.replace(".fp16.", ".") for file in like.files]
    return replace(
        other,
        files=tuple(
            file or wanted
            for file, wanted in zip(chosen, plain, strict=True)
            if file is not None or wanted.endswith(".safetensors")
        ),
    )


def fetched(hub: Hub, models_dir: Path | None = None, report: Report = no_report) -> Path:
    """The local folder of the files, fetched from the hub where they are missing.

    File after file: of one file the hub's client fetches many parts at once, and its
    `snapshot_download` lists the whole repository, names no file in its progress and passes over
    a file that is not there.

    What comes from the hub or its cache must have the hashes that are pinned. What lies below
    `models_dir` is the operator's own choice and is taken as it is: the provenance of every picture
    holds its hashes. Raises ModelError that names a file of another hash, or the missing files,
    where they go, and how to point elsewhere."""
    if (found := local_folder(hub, models_dir)) is not None:
        own = models_dir is not None and found.is_relative_to(models_dir.absolute())
        return found if own else _checked(hub, found)
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.utils import get_session

    try:  # downloads retry for half a minute; without a network the error comes at once
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # as below
        raise ModelError(_how_to_get(hub, models_dir, error)) from error
    for number, path in enumerate(hub.paths):
        label = f"{hub.repo}: {path}"
        report(label, number / len(hub.paths))
        try:
            got = hf_hub_download(
                hub.repo,
                path,
                revision=hub.revision,
                tqdm_class=_reporting(label, number, len(hub.paths), report),
            )
        except Exception as error:  # the hub's client raises errors of many libraries
            raise ModelError(_how_to_get(hub, models_dir, error)) from error
        report(label, (number + 1) / len(hub.paths))
    return _checked(hub, _root(Path(got), hub.paths[-1]) / hub.folder)


def _checked(hub: Hub, folder: Path) -> Path:
    """`folder`, if each of its files is the one that is pinned; a file that serves under another
    name is another file, of which nothing is pinned. Raises ModelError."""
    for file in filter(lambda file: (folder / file).is_file(), hub.files):
        expected = hub.sha256.get(file)
        if expected is not None and (got := file_sha256(folder / file)) != expected:
            raise ModelError(
                f"{hub.repo}: {file} has the SHA-256 {got}, but {expected} is pinned: "
                f"it is damaged or another file. Remove {folder / file} to fetch it "
                "anew, or give a folder of your own with --models-dir"
            )
    return folder


def file_sha256(path: Path) -> str:
    """In hexadecimal; computed once for as long as the file's size and date stay."""
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: Path, _size: int, _date: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def announced(write: Callable[[str], object]) -> Report:
    """For a terminal: every file once, as its fetching begins."""
    said: set[str] = set()

    def report(text: str, share: float) -> None:
        if text not in said:
            said.add(text)
            write(f"fetching {text}")

    return report


def _how_to_get(hub: Hub, models_dir: Path | None, error: Exception) -> str:
    places = [place for place in (_mirror(hub, models_dir), _cache(hub)) if place is not None]
    missing = min((_missing(hub, place) for place in places), key=len, default=list(hub.paths))
    whole = hub.megabytes and len(missing) == len([f for f in hub.files if f not in OPTIONAL])
    size = f" ({hub.megabytes:,} MB)" if whole else ""
    place = models_dir or Path("models")
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
    return (
        f"missing{size}: {some_of(missing, 4)} of {hub.repo}; they could not be fetched "
        f"({type(error).__name__}: {reason}). Put them below {place / hub.repo} and give "
        f"--models-dir {place}, or connect to https://huggingface.co"
    )


def _root(file: Path, path: str) -> Path:
    """The repository's root, from one of its files."""
    return file.parents[path.count("/")]


def _reporting(label: str, number: int, total: int, report: Report) -> type:
    """A progress bar for the hub's client that tells `report` instead of the terminal."""
    from tqdm.std import tqdm  # not the hub's own, which somebody may have switched off

    class Reporting(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **options | {"disable": False, "file": _Silence()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.total:
                report(label, (number + min(1.0, self.n / self.total)) / total)
            return shown

    return Reporting


class _Silence:
    def write(self, _: str) -> None: ...

    def flush(self) -> None: ...


def megabytes_of(places: Iterable[Hub]) -> int:
    return sum(place.megabytes for place in places)
