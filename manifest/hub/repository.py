"""A repository of a hub: the files of one of its commits, the checkpoints described there, and its errors as sentences.

The address of the hub, the token, retries and time-outs are those of `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_DOWNLOAD_TIMEOUT` and the rest of its variables. Nothing that a repository says of itself is trusted here.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from manifest.errors import HubError, InputError, ManifestError, one_line
from manifest.escaping import printable
from manifest.schema.document import File, Manifest
from manifest.storage.sidecars import MANIFEST_ENDING, MANIFEST_INSIDE, SIGNATURE_ENDINGS, SIGNATURES_INSIDE
from manifest.version import __version__

_HttpError = HfHubHTTPError.__bases__[0]
"""What the library's requests raise: `HTTPError` of httpx, or of the fork of it that later versions use."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_CAUSES = 10


@dataclass(frozen=True)
class ListedFile:
    """What a hub says of a file.

    Attributes:
        size: Bytes.
        sha256: Hexadecimal digits, where it is stored as a large file; else None.
    """

    size: int | None
    sha256: str | None


@dataclass(frozen=True)
class Commit:
    """One commit of a repository.

    Attributes:
        repository: `OWNER/REPO`.
        sha: The commit's hash.
        files: By their paths.
    """

    repository: str
    sha: str
    files: dict[str, ListedFile]

    def __str__(self) -> str:
        return f"{self.repository}@{self.sha}"


@dataclass(frozen=True)
class Described:
    """A checkpoint that has a manifest, by its path in a repository.

    Attributes:
        path: Of the file or the folder; empty where it is the whole repository.
        is_folder: Whether its files, manifest and signature are in a folder of that name.
    """

    path: str
    is_folder: bool = False

    @property
    def manifest(self) -> str:
        return self._inside(MANIFEST_INSIDE) if self.is_folder else self.path + MANIFEST_ENDING

    @property
    def signatures(self) -> tuple[str, ...]:
        """Where signatures may be: the first, and those of others beside it."""
        if self.is_folder:
            return tuple(map(self._inside, SIGNATURES_INSIDE))
        return tuple(self.path + ending for ending in SIGNATURE_ENDINGS)

    def files(self, manifest: Manifest) -> list[tuple[File, str]]:
        """The files that its manifest names, each with its path in the repository."""
        files = manifest.checkpoint.files
        if self.is_folder:
            return [(file, self._inside(file.path)) for file in files]
        folder = PurePosixPath(self.path).parent
        return [(files[0], self.path), *((file, str(folder / file.path)) for file in files[1:])]

    def _inside(self, name: str) -> str:
        return f"{self.path}/{name}" if self.path else name


def hub_api() -> HfApi:
    """The library's client, which says in its requests that they are of this package."""
    return HfApi(library_name="checkpoint-manifest", library_version=__version__)


def repository_name(text: str) -> str:
    """The name of a repository.

    Raises:
        InputError: It cannot be one.
    """
    try:
        validate_repo_id(text)
        if text.count("/") == 1:
            return text
    except HFValidationError:
        pass  # the sentence below says what is expected
    raise InputError(f"{printable(text)!r} is no name of a repository, expected OWNER/REPO, as in acme/clip-small.")


def commit_of(repository: str, revision: str | None) -> Commit:
    """The commit that a branch, a tag or the default branch is at, with its files.

    Raises:
        HubError: The hub does not say.
    """
    with hub_errors(repository, revision):
        info = hub_api().model_info(
            repository, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        )
        files = {
            each.rfilename: ListedFile(each.size, each.lfs.sha256 if each.lfs is not None else None)
            for each in info.siblings or ()
        }
    return Commit(repository, commit_hash(info.sha, repository), files)


def commit_hash(sha: str | None, repository: str) -> str:
    """The hash of a commit, as a hub told it.

    Raises:
        HubError: It is none.
    """
    if sha is None or not _COMMIT.fullmatch(sha):
        hub = _endpoint()
        raise HubError(f"{hub} names no commit of {repository}; check that HF_ENDPOINT is the address of a hub.")
    return sha


@contextlib.contextmanager
def hub_errors(repository: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the library raises inside into a `HubError` of one sentence, in which no token is.

    Errors of the file system, of this package, and interrupts pass.
    """
    try:
        yield
    except ManifestError:
        raise
    except Exception as error:  # the library lets through what JSON, HTTP and the answers of a server make of its code
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise
        raise HubError(_without_secrets(_sentence(error, repository, revision))) from None


def _sentence(error: Exception, repository: str, revision: str | None) -> str:
    """What went wrong, and what to do."""
    hub = _endpoint()
    match cause := _cause(error):
        case GatedRepoError():
            return (
                f"{repository} is gated: ask for access on its page at {hub}, and log in by `hf auth login` or "
                "HF_TOKEN as who has it."
            )
        case RepositoryNotFoundError():
            return (
                f"{hub} shows no repository {repository}; check the name, and if it is private, log in by "
                "`hf auth login` or HF_TOKEN."
            )
        case RevisionNotFoundError():
            return f"{repository} has no revision {printable(str(revision))!r}; name a branch, a tag or a commit of it."
        case EntryNotFoundError() if isinstance(cause, HfHubHTTPError):
            return f"{repository} names a file that {hub} does not have; try again, or name another revision."
        case OfflineModeIsEnabled():
            return f"HF_HUB_OFFLINE is set, so {hub} is not asked; unset it."
        case HfHubHTTPError():
            return _of_status(cause, repository)
        case _ if isinstance(cause, _HttpError):
            return (
                f"{hub} cannot be reached, or broke off ({_words(cause)}); check the network and HF_ENDPOINT, "
                "and try again."
            )
    if type(error) is OSError:  # whose words quote an address that may be signed
        return f"{hub} sent another number of bytes of a file of {repository} than it announced; try again."
    return f"{hub} did not do what was asked of {repository} ({_words(error)}); try again, or see its status page."


def _of_status(error: HfHubHTTPError, repository: str) -> str:
    hub, status = _endpoint(), error.response.status_code
    said = f": {_words(error.server_message)}" if error.server_message else ""
    match status:
        case 401 if get_token() is None:
            return f"{hub} does not do that for anybody; log in by `hf auth login`, or set HF_TOKEN."
        case 401:
            return f"{hub} does not take this token; log in again by `hf auth login`, or set another HF_TOKEN."
        case 403:
            return (
                f"This token may not do that to {repository}{said}; use one that may read it, and to push, write to it."
            )
        case 412:
            return f"{repository} got another commit at the same time, so nothing was changed; push again."
        case 429:
            return f"{hub} has had too many requests; wait some minutes, and log in by `hf auth login` for more."
    return f"{hub} answered with status {status}{said}; try again later."


def _cause(error: BaseException) -> BaseException:
    """The first error of the hub or the network behind an error of the library, or the error itself."""
    each: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if each is None:
            break
        if isinstance(each, _HttpError | OfflineModeIsEnabled):
            return each
        each = each.__cause__ or each.__context__
    return error


def _words(said: object) -> str:
    text = printable(one_line(said) if isinstance(said, BaseException) else " ".join(str(said).split()), 200)
    return text.rstrip(".") or type(said).__name__


def _without_secrets(sentence: str) -> str:
    """A sentence without the token, and without the password of the hub's address, which the library may quote."""
    token = get_token()
    sentence = sentence.replace(constants.ENDPOINT, _endpoint())
    return sentence.replace(token, "(the token)") if token else sentence


def _endpoint() -> str:
    """Where the hub is, without the password that its address may hold."""
    address = urlsplit(constants.ENDPOINT)
    return f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
