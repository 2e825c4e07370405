"""Files that are there twice: in the training and in the test part, or in two classes."""

from __future__ import annotations

from collections.abc import Sequence

from snnrun.data import audio, folders
from snnrun.data.corpus import Corpus


def notes(corpus: Corpus, paths: Sequence[audio.Recording], contents: Sequence[bytes] = ()) -> list[str]:
    """What a user should know of samples whose files have the same contents.

    Args:
        corpus: Of these samples.
        paths: File of each sample, those to train on first.
        contents: SHA-256 of each, if it is known; else the files are read.

    Raises:
        SnnrunError: If a file cannot be read.
    """
    contents = contents or audio.hashes(paths)
    labels = [*corpus.train_labels.tolist(), *corpus.test_labels.tolist()]
    size, classes = len(corpus.train_labels), dict[bytes, set[int]]()
    for content, label in zip(contents, labels, strict=True):
        classes.setdefault(content, set()).add(label)
    trained = set(contents[:size])
    known = [path for path, content in zip(paths[size:], contents[size:], strict=True) if content in trained]
    torn = [path for path, content in zip(paths, contents, strict=True) if len(classes[content]) > 1]
    found = []
    if known:
        found.append(
            f"test: {len(known):,} of {len(labels) - size:,} files have the contents of one that is trained or "
            f"validated on ({folders.some(map(str, known))})"
        )
    if torn:
        found.append(f"{len(torn):,} files have the contents of one in another class ({folders.some(map(str, torn))})")
    return found
