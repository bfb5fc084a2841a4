"""Pushing a folder to the Hugging Face hub: private unless asked otherwise, the token from the environment alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.errors import CacheError, ConfigError
from tokensieve.model import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository that this token may be able to write."""

    name: str
    public: bool
    api: HfApi

    def push(self, folder: Path) -> str:
        """Upload all of `folder` in one commit and return the repository's address.

        Raises:
            ConfigError: the repository exists and is public, though a private one was asked for.
            CacheError: the hub refuses, or cannot be reached; `folder` stays.
        """
        with _told_clearly(
            self.name, f"the export is complete in {folder}; push it with: hf upload {self.name} {folder}"
        ):
            address = self.api.create_repo(self.name, private=not self.public, exist_ok=True)
            if not self.public and not self.api.repo_info(self.name).private:
                raise ConfigError(
                    "--push",
                    "would publish: the repository is public",
                    received=self.name,
                    remedy=f"add --public, or name another; the export is complete in {folder}",
                )
            self.api.upload_folder(repo_id=self.name, folder_path=folder, commit_message="Export of tokensieve")
        return str(address)


def open_repository(name: str, *, public: bool = False) -> HubRepository:
    """Check name, token and network before any work is done.

    Raises:
        ConfigError: a malformed name, or no token in the environment.
        CacheError: the hub cannot be reached, or does not accept the token.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        is_valid = name.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise ConfigError("--push", "must be owner/name", received=name, remedy="give a repository like me/my-model")
    token = next((value for key in TOKEN_VARIABLES if (value := os.environ.get(key, "").strip())), None)
    if token is None:
        raise ConfigError(
            "--push", "needs a token with write access in the environment", remedy=f"set {TOKEN_VARIABLES[0]}"
        )
    api = HfApi(token=token, library_name="tokensieve")
    with _told_clearly(name, "check the network, HF_ENDPOINT and HF_TOKEN, or export without --push"):
        api.whoami()
    return HubRepository(name, public, api)


@contextmanager
def _told_clearly(name: str, remedy: str) -> Iterator[None]:
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its HTTP library, whichever it is

    try:
        yield
    except (HTTPError, OSError) as error:  # its own errors are both; being offline is a ConnectionError
        status = getattr(getattr(error, "response", None), "status_code", None)
        what = {401: "401, the token is not valid", 403: "403, the token may not write there"}.get(status or 0)
        raise CacheError(
            f"hub repository {name}", "must be reachable", received=what or first_line(error), remedy=remedy
        ) from error
