"""The cache of encoded spikes: what comes out, whatever the spikes, keys and threads."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from cached_spikes import COUNT, KEY, NUMBERS, STEPS, WHOLE, WIDTH, entry, get, key_of, no_sample, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from rich.console import Console

from snnrun.compiled import parallel
from snnrun.data import cache, exclusive
from snnrun.data.spikes_file import Encoded


@pytest.mark.parametrize("threads", [1, 3])
def test_spikes_are_encoded_once(tmp_path, threads):
    parallel.set_threads(threads)
    made, said = get(tmp_path / "new/folder")
    path = entry(tmp_path / "new/folder")
    assert said == f"encoding letters: {COUNT} samples into {path}\n"
    found, said = get(tmp_path / "new/folder", encode=no_sample)
    assert said == ""
    for spikes in made, found:
        assert spikes.dtype == np.int64
        np.testing.assert_array_equal(spikes, WHOLE, strict=True)
        assert spikes.ctypes.data % 4096 == 0
        assert isinstance(spikes.base, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            spikes[0, 0, 0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            spikes.flags.writeable = True
    assert path == entry(tmp_path / "new/folder")


def test_threads_do_not_write_over_each_other(tmp_path):
    parallel.set_threads(8)
    spikes, _ = get(tmp_path, count=3000)
    np.testing.assert_array_equal(spikes, np.stack([sample(k) for k in range(3000)]))


def numbers_of_json():
    return st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(allow_nan=False, allow_infinity=False))


def trees():
    return st.recursive(
        numbers_of_json() | st.text(max_size=5),
        lambda part: (
            st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), part, max_size=3)
        ),
        max_leaves=6,
    )


@settings(max_examples=40)
@given(
    npst.arrays(np.int64, npst.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=7)),
    st.dictionaries(st.text(max_size=5), trees(), max_size=4),
    st.text(max_size=8),
    st.sampled_from([1, 2]),
)
def test_any_spikes_any_key_and_any_title_come_back(whole, key, title, threads):
    parallel.set_threads(threads)
    count, steps, width = whole.shape
    shape = {"count": count, "steps": steps, "width": width, "title": title}
    with tempfile.TemporaryDirectory() as folder:
        np.testing.assert_array_equal(get(Path(folder), key, whole.__getitem__, **shape)[0], whole, strict=True)
        turned = dict(reversed(key.items()))
        found, said = get(Path(folder), turned, no_sample, **shape)
        np.testing.assert_array_equal(found, whole, strict=True)
        assert said == ""
        assert key_of(entry(Path(folder))) == json.loads(json.dumps(key))


def test_a_long_key_moves_the_spikes(tmp_path):
    key = {"options": "x" * 10_000}
    get(tmp_path, key)
    found, _ = get(tmp_path, key, no_sample)
    assert found.ctypes.data % 4096 == 0
    np.testing.assert_array_equal(found, WHOLE)


def test_whatever_differs_has_a_file_of_its_own(tmp_path):
    """A number of another type too: nobody can know whether the encoder minds."""
    get(tmp_path)
    for number, (key, shape) in enumerate(
        [
            ({**KEY, "corpus": "another"}, {}),
            ({**KEY, "encoder": {"channels": 78.0, "density": 0.1}}, {}),
            (KEY, {"count": COUNT - 1}),
            (KEY, {"steps": WIDTH, "width": STEPS, "encode": lambda k: sample(k).T}),
        ]
    ):
        get(tmp_path, key, **shape)
        assert len(list(tmp_path.iterdir())) == number + 2
    assert len({path.name for path in tmp_path.iterdir()}) == 5
    np.testing.assert_array_equal(get(tmp_path, encode=no_sample)[0], WHOLE)


def test_the_file_is_as_described(tmp_path):
    """By hand, as another program would read it."""
    get(tmp_path)
    content = entry(tmp_path).read_bytes()
    magic, version, length, crc = struct.unpack("<8sIII", content[:20])
    assert (magic, version) == (b"SNNSPIKE", 3)
    assert zlib.crc32(content[20 : 20 + length]) == crc
    fields = json.loads(content[20 : 20 + length].decode("utf-8"))
    assert fields == {
        **{"key": KEY, "count": COUNT, "steps": STEPS, "width": WIDTH},
        **{"sha256": hashlib.sha256(WHOLE.astype("<i8").tobytes()).hexdigest(), "made_by": exclusive.me()},
        "crc32": f"{zlib.crc32(NUMBERS):08x}",
    }
    assert not any(content[20 + length : 4096])
    assert content[4096:] == WHOLE.astype("<i8").tobytes() + NUMBERS


def test_a_bar_on_a_terminal(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    _, said = get(tmp_path, console=console, title="[red]letters")
    assert "encoding [red]letters" in said
    assert f"{COUNT}/{COUNT}" in said
    assert "samples into" not in said


def test_progress_goes_to_the_error_stream(tmp_path, capsys):
    get(tmp_path / "a", console=Console(stderr=True))
    cache.stored(tmp_path / "b", KEY, count=COUNT, steps=STEPS, width=WIDTH, encode=lambda k: Encoded(sample(k)))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("samples into") == 2


@pytest.mark.parametrize("bad", [sample(0).astype(np.int32), sample(0).T, sample(0)[None], sample(0)[:1]])
def test_what_encode_gives_must_fit(tmp_path, bad):
    with pytest.raises(ValueError, match=r"encode\(3\) gave .*; want int64 \(5, 2\)"):
        get(tmp_path, encode=lambda k: bad if k == 3 else sample(k))
    assert not list(tmp_path.iterdir())


def test_a_key_that_json_cannot_say(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        get(tmp_path, {"density": float("nan")})
    with pytest.raises(TypeError, match="JSON"):
        get(tmp_path, {"corpus": tmp_path})
    assert not list(tmp_path.iterdir())


@pytest.mark.launches
def test_not_much_is_held_in_memory(tmp_path):
    """A file of 64 MB, in a process that says how much memory it had at most."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from snnrun.data import cache
from snnrun.data.spikes_file import Encoded, UnsoundError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, one = peak(), np.ones((1000, 8), np.int64)
cache.stored(Path(sys.argv[1]), {}, count=1000, steps=1000, width=8, encode=lambda k: Encoded(one))
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert entry(tmp_path).stat().st_size == 4096 + 64_000_000 + 3 * 8000
    assert int(result.stdout) < 16
