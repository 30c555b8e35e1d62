"""The hub: what is fetched from it or sent to it goes through here, with one line for whatever goes wrong."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from huggingface_hub import HfApi, constants, get_session, get_token, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lit_memories.storage.cards import CARD_FILE, kept
from lit_memories.storage.files import check_regular, write
from lit_memories.storage.shipped import model_folder

logger = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds the hub may take to answer before it counts as unreachable."""
COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""How names of files of weights end; no name of a repository does."""
_LETTER = r"""(?:\\u|[^\s"'<>\\])"""
"""What a secret is made of, in JSON too, which writes some letters as ``\\u`` and their number."""
_QUERY = r"[\w.-]*(?:token|signature|credential|secret|password|passwd|api_?key)[\w.-]*|sig|X-(?:Amz|Goog)-[\w-]+"
SECRET = re.compile(
    rf"\bhf_\w{{16,}}|(Bearer |[?&#;](?:{_QUERY})=)(?:(?![&#]){_LETTER})+|(:/{{1,2}})(?:(?!/){_LETTER})+(?=@)",
    re.IGNORECASE,
)
"""Tokens of the hub's shape or in a header; in addresses secret parts of the query, and name and password before
``@``."""

Choose = Callable[[Sequence[str]], Sequence[str]]
"""Says which of a repository's files are wanted; raises FileNotFoundError if what is needed is not among them."""
Check = Callable[[Mapping[str, int]], None]
"""Raises ValueError if files are larger than they may be, by their sizes in bytes."""


class Fetched(NamedTuple):
    """Where something is.

    Attributes:
        folder: on this machine.
        commit: what its revision was on the hub; None of a folder that does not come from there.
    """

    folder: Path
    commit: str | None


def fetch(name: str, choose: Choose, revision: str | None = None, check: Check | None = None) -> Fetched:
    """A folder on this machine with files of a repository, or the folder itself if `name` is one.

    ``checkpoints/NAME`` is a model that ships with this package, wherever that has it, and never one of the hub.
    What the cache holds is not asked for again. If the hub is down, the cache answers for it.

    Args:
        name: file, folder, or hub id; ``user/name@revision`` is the id at a revision.
        choose: says which of all files are wanted.
        revision: branch, tag or commit of a hub id; its main branch if None.
        check: is told the sizes that the hub says the chosen files have, before any is fetched.

    Raises:
        FileNotFoundError: if there is no such file, folder, repository or revision, or none can be had.
        ValueError: if the name is empty or that of a pipe or a device, two revisions are given, or a folder with one.
        PermissionError: if the repository is gated, and not for this user.
    """
    if not name.strip():
        raise ValueError("the name of a file, a folder or a model on the hub is empty: give one")
    if (folder := model_folder(name)).exists():
        check_regular(folder)
        if revision is not None:
            raise ValueError(f"{name} is on this machine, where nothing has a revision: leave out {revision!r}")
        if folder.is_dir():
            try:
                choose(_files(folder))
            except FileNotFoundError as lacking:
                raise FileNotFoundError(f"{name}: {lacking}") from None
        return Fetched(folder, None)
    if not is_id(name):
        raise FileNotFoundError(f"{redact(name)}: there is no such file or folder")
    repo_id, _, pin = name.partition("@")
    if pin and revision is not None:
        raise ValueError(f"{name} names a revision already: leave out {revision!r}")
    return _fetch(repo_id, choose, pin or revision, check)


def reach() -> str:
    """Whether the hub can be had, in a word or a line: ``reachable``, ``offline`` by the user's wish, or why not."""
    if constants.is_offline_mode():
        return "offline, as HF_HUB_OFFLINE says: models come from folders and the cache"
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # the HTTP client's own errors are of another package in every version
        return f"cannot be reached: {plain(error)}"
    return "reachable"


def is_id(name: str) -> bool:
    """Whether a name that is no folder here can be one on the hub: ``name`` or ``user/name``, perhaps ``@revision``."""
    repo_id = name.partition("@")[0]
    return not (
        Path(repo_id).is_absolute()
        or repo_id.startswith((".", "~"))
        or repo_id.count("/") > 1
        or Path(repo_id).suffix in WEIGHT_SUFFIXES
    )


def push(
    folder: Path,
    repo_id: str,
    files: Sequence[str],
    private: bool,
    token: str | None,
    message: str,
    what: str = "the erasure",
) -> str:
    """Send files to a repository, which is made if there is none, as one commit.

    A card that somebody else wrote there stays.

    Args:
        folder: where they are.
        repo_id: ``user/name``.
        files: their names.
        private: whether a new repository is for its owner only; one that exists stays as it is.
        token: with write access; if None, the one that ``hf auth login`` stored.
        message: of the commit.
        what: they are, in words.

    Returns:
        The commit.

    Raises:
        PermissionError: if there is no token, or it may not write there.
        OSError: if the hub cannot be reached.
    """
    if not (token or get_token()):
        raise PermissionError(f"sending {repo_id} to the hub needs a token with write access: log in, `hf auth login`")
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        sent = [name for name in files if name != CARD_FILE or not _card_kept(api, repo_id)]
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=sent, commit_message=message)
    except HFValidationError:
        raise ValueError(f"{repo_id!r} is no name on the hub: user/name is") from None
    except Exception as error:  # the HTTP client's own errors are of another package in every version
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in {401, 403}:
            raise PermissionError(
                f"the hub does not let you write to {repo_id} ({status}): check the name, and log in with a token "
                "that has write access, `hf auth login`"
            ) from None
        raise OSError(f"cannot send {what} to {repo_id}: {plain(error)}") from None
    return str(commit.oid)


def _card_kept(api: HfApi, repo_id: str) -> bool:
    """Whether a repository has a card that is not to be replaced; warns of it."""
    if not api.file_exists(repo_id, CARD_FILE):
        return False
    with TemporaryDirectory() as there:
        file = Path(api.hf_hub_download(repo_id, CARD_FILE, local_dir=there))
        return kept(file, f"{CARD_FILE} in {repo_id}")


def plain(error: Exception) -> str:
    """The first line of an error, or two where it announces the second, without secrets."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [""]
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    bare = isinstance(error, KeyError | IndexError) or not said  # of such, words alone say nothing
    return redact(f"{type(error).__name__} {said}".strip() if bare else said)


def redact(text: str) -> str:
    """A text without secrets, which have ``***`` in their place: for files, logs and messages.

    Secrets are tokens of the hub's shape, what follows ``Bearer``, this user's own token, and of addresses name and
    password (``://name:password@host``, with one slash too, as a path has it) and parts of the query such as
    ``token``, ``access_token`` or ``X-Amz-Signature``.

    Args:
        text: any, JSON and YAML too: what is one stays one.
    """
    own = get_token()
    return SECRET.sub(r"\1\2***", text.replace(own, "***") if own and len(own) >= 8 else text)


def _fetch(repo_id: str, choose: Choose, revision: str | None, check: Check | None) -> Fetched:
    cached = _cached(repo_id, revision)
    if cached is not None and COMMIT.fullmatch(revision or "") and _complete(cached, choose):
        return Fetched(cached, revision)  # a commit does not change: nobody needs to be asked
    try:
        info = HfApi().model_info(repo_id, revision=revision, timeout=TIMEOUT, files_metadata=check is not None)
    except Exception as error:  # as above
        reason = _reason(repo_id, revision, error)
        if isinstance(error, RevisionNotFoundError) or cached is None or not _complete(cached, choose):
            raise reason from None
        logger.warning("%s; what the cache holds is used: commit %s", reason, cached.name)
        return Fetched(cached, cached.name)
    commit = str(info.sha)
    try:
        wanted = choose([file.rfilename for file in info.siblings or []])
    except FileNotFoundError as lacking:
        raise FileNotFoundError(f"{repo_id} on the hub, commit {commit}: {lacking}") from None
    if check is not None:
        check({file.rfilename: file.size or 0 for file in info.siblings or [] if file.rfilename in set(wanted)})
    for file in sorted(wanted, key=_is_weight):  # weights last, so that where they are in the cache, all is
        try:
            hf_hub_download(repo_id, file, revision=commit, etag_timeout=TIMEOUT)
        except (HfHubHTTPError, OfflineModeIsEnabled) as error:
            raise _reason(repo_id, revision, error) from None
        except Exception as error:  # as above
            raise OSError(
                f"the download of {file} from {repo_id} broke off ({plain(error)}): run the command again, what is "
                "whole is kept"
            ) from None
    folder = _storage(repo_id) / "snapshots" / commit
    _remember(revision, folder)
    return Fetched(folder, commit)


def _is_weight(file: str) -> bool:
    return file.endswith(WEIGHT_SUFFIXES)


def _storage(repo_id: str) -> Path:
    """Where the cache has a repository."""
    return Path(constants.HF_HUB_CACHE).expanduser() / f"models--{repo_id.replace('/', '--')}"


def _cached(repo_id: str, revision: str | None) -> Path | None:
    """The folder of a revision in the cache, which may hold only some of its files."""
    storage = _storage(repo_id)
    pointer = storage / "refs" / (revision or constants.DEFAULT_REVISION)
    commit = _commit(pointer) if pointer.is_file() else revision or ""
    folder = storage / "snapshots" / commit
    return folder if COMMIT.fullmatch(commit) and folder.is_dir() else None


def _commit(pointer: Path) -> str:
    """What a pointer of the cache points to; nothing that is none if it is damaged."""
    return pointer.read_text(encoding="utf-8", errors="replace").strip()


def _remember(revision: str | None, folder: Path) -> None:
    """Note in the cache, as `huggingface_hub` does, what a revision's commit was: only commits were downloaded."""
    revision = revision or constants.DEFAULT_REVISION
    pointer = folder.parent.parent / "refs" / revision
    if not COMMIT.fullmatch(revision) and not (pointer.is_file() and _commit(pointer) == folder.name):
        with suppress(OSError):  # a cache that can only be read; what was wanted is there
            write(pointer, folder.name)


def _complete(folder: Path, choose: Choose) -> bool:
    try:
        choose(_files(folder))
    except FileNotFoundError:
        return False
    return True


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _reason(repo_id: str, revision: str | None, error: Exception) -> OSError | ValueError:
    """The one line for what went wrong, and what to do."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    page = f"{constants.ENDPOINT}/{repo_id}"
    at = f" at revision {revision}" if revision else ""
    if isinstance(error, HFValidationError):
        return FileNotFoundError(f"{repo_id!r} is neither a folder nor a name on the hub: user/name is")
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"{repo_id} on the hub has no revision {revision!r}: pass a branch, a tag or a commit")
    if isinstance(error, GatedRepoError):
        todo = "log in with `hf auth login`" if status == 401 else "wait for access, or log in as who has it"
        return PermissionError(f"{repo_id} is gated ({status}): accept its terms at {page}, then {todo}")
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"{repo_id!r} is neither a folder nor a model on the hub ({status}): check the name; if it is private, "
            "log in with `hf auth login`"
        )
    if status == 401:
        return PermissionError(f"the hub refuses the token it was sent for {repo_id}: log in anew, `hf auth login`")
    if status is not None:
        failed = f"the hub answers {status}"
    elif isinstance(error, OfflineModeIsEnabled):
        failed = "HF_HUB_OFFLINE keeps this process from the hub"
    else:
        failed = f"the hub cannot be reached ({plain(error)})"
    return FileNotFoundError(
        f"model {repo_id!r}{at} is neither a folder nor in the cache, and {failed}: check the connection, or fetch it "
        f"once where there is one with `hf download {repo_id}`"
    )
