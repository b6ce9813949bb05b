"""The model of a power cut sees what it is there for: a missing fsync of a file, and of a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import fsops
from tests.power import Journal


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[tuple[Path, Journal]]:
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    journal = Journal(root, tmp_path / "shadow")
    fsops.seam = journal.note
    yield root, journal
    fsops.seam = None


def _after_a_cut(root: Path, journal: Journal) -> Path:
    """What is left of the tree if the power goes now."""
    journal.note("the cut", (root,))
    copy = root.with_name("copy")
    shutil.copytree(root, copy, copy_function=os.link)
    journal.cut(copy)
    return copy


def test_what_was_written_as_it_should_be_is_there(tree: tuple[Path, Journal]) -> None:
    root, journal = tree
    fsops.write(root / "a" / "f", b"old")
    fsops.write(root / "a" / "f", b"new")
    fsops.move(root / "a" / "f", root / "b" / "g")
    copy = _after_a_cut(root, journal)
    assert (copy / "b" / "g").read_bytes() == b"new"
    assert not list((copy / "a").iterdir())


def test_a_file_that_was_not_fsynced_is_empty(tree: tuple[Path, Journal], monkeypatch: pytest.MonkeyPatch) -> None:
    root, journal = tree
    monkeypatch.setattr(fsops, "sync_file", lambda path: None)
    fsops.write(root / "a" / "f", b"content")
    fsops.move(root / "a" / "f", root / "b" / "g")
    assert (_after_a_cut(root, journal) / "b" / "g").read_bytes() == b""


def test_a_file_made_by_another_hand_counts_too(tree: tuple[Path, Journal]) -> None:
    root, journal = tree
    part = root / "a" / ".f.1-1.part"
    part.write_bytes(b"frames")  # as a memory map or ffmpeg writes, unseen by the seam
    part.rename(root / "a" / "g")
    (root / "a" / "g").rename(part)
    fsops.publish(part, root / "a" / "f")
    assert (_after_a_cut(root, journal) / "a" / "f").read_bytes() == b"frames"


def test_a_rename_whose_folder_was_not_fsynced_is_undone(
    tree: tuple[Path, Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, journal = tree
    fsops.write(root / "a" / "f", b"old")
    monkeypatch.setattr(fsops, "sync_folder", lambda path: None)
    fsops.write(root / "a" / "f", b"new")
    fsops.make_folder(root / "c")
    fsops.remove(root / "a" / "f")
    copy = _after_a_cut(root, journal)
    assert (copy / "a" / "f").read_bytes() == b"old"
    assert not (copy / "c").exists()
