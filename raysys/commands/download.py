"""Fetches the MovieLens-100K release for the demo, and trusts nothing that does not match its checksum."""

import hashlib
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
CHECKSUMS = {
    "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
    "u.item": "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
}
_TIMEOUT_SECONDS = 20
_MOST_BYTES = 64 << 20


class DownloadError(Exception):
    """The release could not be fetched, or is not what it should be."""


def download_movielens(directory: Path, url: str = URL) -> Path:
    """Return a directory with MovieLens-100K's ratings and titles, downloading it the first time.

    Raises:
        DownloadError: nothing answers at the address, or a file does not have the known checksum.
    """
    target = directory / "movielens-100k"
    if all((target / name).is_file() for name in CHECKSUMS):
        return target
    archive = directory / "ml-100k.zip"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            archive.write_bytes(answer.read(_MOST_BYTES))
        _unpack(archive, target)
    except (urllib.error.URLError, OSError, zipfile.BadZipFile, KeyError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise DownloadError(f"{url}: {error}") from None
    finally:
        archive.unlink(missing_ok=True)
    return target


def _unpack(archive: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    with zipfile.ZipFile(archive) as files:
        for name, checksum in CHECKSUMS.items():
            content = files.read(f"ml-100k/{name}")
            if hashlib.sha256(content).hexdigest() != checksum:
                raise OSError(f"{name} does not have the checksum of the official release")
            (target / name).write_bytes(content)
