"""Files are written whole or not at all, at any place that a path or a URI names."""

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from raysys.data.places import Folder
from raysys.errors import UserError


@pytest.mark.parametrize("scheme", ["", "file://", "local://", "memory://"])
def test_what_is_written_is_read_back(scheme, tmp_path):
    folder = Folder.open(f"{scheme}{tmp_path}/new é/deep")
    assert folder.names() == []
    folder.write("a.json", b"{}")
    folder.write(".b", b"1")
    folder.write("a.json", b"[1]")
    assert folder.names() == [".b", "a.json"], "a name under which a file was written stayed"
    assert folder.read("a.json") == b"[1]"
    assert (folder.has("a.json"), folder.has("b")) == (True, False)
    again = Folder.open(f"{folder.path}/")
    assert again.names() == [".b", "a.json"]
    again.remove(".b")
    assert folder.names() == ["a.json"]
    if scheme != "memory://":
        assert (tmp_path / "new é" / "deep" / "a.json").read_bytes() == b"[1]"


def test_a_file_that_cannot_be_written_leaves_the_old_one(monkeypatch):
    folder = Folder.open("memory://bucket/lists")
    folder.write("part", b"old")

    def fails(*_, **__):
        raise OSError("the network is gone")

    monkeypatch.setattr(MemoryFileSystem, "mv", fails)
    with pytest.raises(UserError, match=r"path: memory://bucket/lists: .*the network is gone"):
        folder.write("part", b"new")
    assert folder.read("part") == b"old"


def test_a_file_that_was_taken_for_a_dead_workers_is_no_loss(monkeypatch):
    """Another call that found the whole file removes what it takes for left over, just before it is renamed."""
    folder = Folder.open("memory://bucket/race")
    folder.write("part", b"same")

    def removed(filesystem, path, *_, **__):
        filesystem.rm(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(MemoryFileSystem, "mv", removed)
    folder.write("part", b"same")
    assert folder.names() == ["part"]
    with pytest.raises(UserError, match="path: memory://bucket/race"):
        folder.write("other", b"lost")


@pytest.mark.parametrize(
    ("path", "expected"), [("file.txt", "is a file; give a directory"), ("s3://key:secret@bucket/x", "a password")]
)
def test_a_place_that_is_no_directory_is_refused(path, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(UserError, match=expected):
        Folder.open(path)
