"""The demo's download, against a real HTTP server on this machine."""

import functools
import hashlib
import http.server
import threading
import zipfile

import pytest

from raysys.commands import download


@pytest.fixture
def server(tmp_path):
    """Serve a folder over HTTP; gives (folder, address)."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/ml-100k.zip"
        running.shutdown()


def _archive(folder, files):
    with zipfile.ZipFile(folder / "ml-100k.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"ml-100k/{name}", content)


def test_the_release_is_downloaded_checked_and_used_again(server, tmp_path, data_root):
    folder, url = server
    release = data_root / "movielens-100k"
    _archive(folder, {name: (release / name).read_bytes() for name in download.CHECKSUMS})
    found = download.download_movielens(tmp_path / "store", url)
    assert (found / "u.data").read_bytes() == (release / "u.data").read_bytes()
    (folder / "ml-100k.zip").unlink()
    assert download.download_movielens(tmp_path / "store", url) == found, "the second time nothing is fetched"


@pytest.mark.parametrize(
    "files", [{"u.data": b"1\t1\t5\t1\n", "u.item": b"x"}, {"other": b"x"}], ids=["wrong", "missing"]
)
def test_what_is_not_the_release_is_refused_and_removed(server, tmp_path, files):
    folder, url = server
    _archive(folder, files)
    with pytest.raises(download.DownloadError):
        download.download_movielens(tmp_path / "store", url)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_no_server_and_no_zip_are_download_errors(server, tmp_path):
    folder, url = server
    with pytest.raises(download.DownloadError, match="404"):
        download.download_movielens(tmp_path / "store", url)
    (folder / "ml-100k.zip").write_bytes(b"this is no archive")
    with pytest.raises(download.DownloadError):
        download.download_movielens(tmp_path / "store", url)


def test_the_checksums_are_those_of_the_official_files(data_root):
    for name, checksum in download.CHECKSUMS.items():
        assert hashlib.sha256((data_root / "movielens-100k" / name).read_bytes()).hexdigest() == checksum
