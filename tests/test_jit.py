"""Compiled loops: vectors and bits against NumPy, and a cache that may be damaged."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snnrun import locks
from snnrun.compiled import vector
from snnrun.compiled.jit import compiling, jit, part

ZEROS = {16: vector.zeros16, 32: vector.zeros32, 64: vector.zeros64}
zeros16, zeros32, zeros64 = ZEROS.values()
above, choose, count_bits, load, lowest_bit = (
    vector.above, vector.choose, vector.count_bits, vector.load, vector.lowest_bit,
)  # fmt: skip
splat, store, total, transpose_bits = vector.splat, vector.store, vector.total, vector.transpose_bits


@jit
def arithmetic16(a, b, out):
    x, y = load(a, 1, zeros16()), load(b, 0, zeros16())
    bits = above(x, y)
    store(out, 0, choose(bits, x * y + splat(np.float32(2), x), x - y))
    return bits, total(x)


@jit
def arithmetic32(a, b, out):
    x, y = load(a, 1, zeros32()), load(b, 0, zeros32())
    bits = above(x, y)
    store(out, 0, choose(bits, x * y + splat(np.float32(2), x), x - y))
    return bits, total(x)


@jit
def arithmetic64(a, b, out):
    x, y = load(a, 1, zeros64()), load(b, 0, zeros64())
    bits = above(x, y)
    store(out, 0, choose(bits, x * y + splat(np.float32(2), x), x - y))
    return bits, total(x)


@pytest.mark.parametrize(("width", "function"), [(16, arithmetic16), (32, arithmetic32), (64, arithmetic64)])
def test_vectors_compute_as_arrays_do(width, function):
    rng = np.random.default_rng(width)
    a, b = rng.standard_normal((2, width + 1)).astype(np.float32)
    a[5], b[4] = np.nan, 0.0  # no comparison with NaN holds
    out = np.zeros(width + 1, np.float32)
    bits, sum_ = function(a, b, out)
    x, y = a[1:], b[:width]
    larger = x > y
    assert [bool(bits >> lane & 1) for lane in range(width)] == larger.tolist()
    np.testing.assert_allclose(out[:width], np.where(larger, x * y + 2, x - y), rtol=1e-5)
    assert out[width] == 0, "nothing is written beyond the lanes"
    assert np.isnan(sum_)
    a[5] = 1.0
    assert function(a, b, out)[1] == pytest.approx(a[1:].sum(dtype=np.float64), abs=1e-5)


@jit
def turn(words):
    transpose_bits(words, 64)


@jit
def places(word):
    return lowest_bit(word), count_bits(word)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_bits_are_transposed(seed, density):
    bits = (np.random.default_rng(seed).random((64, 64)) < density).astype(np.uint8)
    words = np.full(192, 7, np.uint64)
    words[64:128] = np.packbits(bits, axis=1, bitorder="little").view(np.uint64)[:, 0]
    turn(words)
    assert np.array_equal(np.unpackbits(words[64:128].view(np.uint8), bitorder="little").reshape(64, 64), bits.T)
    assert (words[:64] == 7).all()
    assert (words[128:] == 7).all()


@given(st.integers(0, 2**64 - 1))
def test_bits_are_found_and_counted(word):
    lowest = (word & -word).bit_length() - 1 if word else 64
    assert places(np.uint64(word)) == (lowest, word.bit_count())


@partial(jit, exact=True)
def sum_of_products(a, b, c):
    result = 0.0
    for i in range(len(a)):
        result += a[i] * b[i] + c[i]
    return result


def test_an_exact_loop_rounds_as_python_does():
    """Neither fused, where c takes away all but the rounding of a * b, nor summed in another order."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 1000)) * 1e6
    for c in -a * b, np.ones(1000):
        assert sum_of_products(a, b, c) == sum_of_products.py_func(a.tolist(), b.tolist(), c.tolist())


@pytest.mark.launches
def test_processes_that_compile_at_once_do_not_take_each_others_code(tmp_path):
    """Each meets its own type first; Numba alone may give two types the same file of its cache."""
    source = tmp_path / "shared_loop.py"
    source.write_text(
        "from snnrun.compiled.jit import jit\n\n\n@jit\ndef half(x):\n    return x[0] / 2\n", encoding="utf-8"
    )
    code = (
        "import sys, time, numpy as np, shared_loop\n"
        "time.sleep(max(0.0, float(sys.argv[2]) - time.time()))\n"
        "assert shared_loop.half(np.array([7], sys.argv[1])) == 3.5\n"
    )
    types = ["int8", "int64", "float32"]
    start = str(time.time() + 2.0)
    for _ in range(2):  # writing the cache, then reading it
        running = [subprocess.Popen([sys.executable, "-c", code, name, start], cwd=tmp_path) for name in types]
        assert [process.wait() for process in running] == [0] * len(types)
    assert len(list((tmp_path / "__pycache__").glob("*.nbc"))) == len(types), "a file for each type"


@pytest.mark.parametrize("content", [b"", b"half a pick", None])
def test_a_damaged_cache_is_made_anew(tmp_path, content):
    """A file cut off, filled with something else, or gone."""
    source = tmp_path / f"loop_{len(content or b'gone')}.py"
    source.write_text(
        "from snnrun.compiled.jit import jit\n\n\n@jit\ndef twice(x):\n    return 2 * x\n", encoding="utf-8"
    )

    def fresh():
        spec = importlib.util.spec_from_file_location(source.stem, source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    assert fresh().twice(3) == 6
    cached = list((tmp_path / "__pycache__").glob("*.nbc"))
    assert cached
    for path in cached:
        path.unlink() if content is None else path.write_bytes(content)
    again = fresh()
    assert again.twice(3) == 6
    assert sum(again.twice.stats.cache_misses.values()) == 1
    third = fresh()
    assert third.twice(3) == 6
    assert sum(third.twice.stats.cache_hits.values()) == 1, "the damaged file was replaced"


@pytest.mark.parametrize("rest", [b"", b"half a pick", b"cmodule_that_is_gone\nThing\n."])
def test_an_index_that_cannot_be_read_is_made_anew(tmp_path, rest):
    """Cut off, damaged, or with the types of an earlier version, whose modules are gone."""
    source = tmp_path / f"loop_{len(rest)}.py"
    source.write_text(
        "from snnrun.compiled.jit import jit\n\n\n@jit\ndef thrice(x):\n    return 3 * x\n", encoding="utf-8"
    )

    def fresh():
        spec = importlib.util.spec_from_file_location(source.stem, source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    assert fresh().thrice(3) == 9
    [index] = (tmp_path / "__pycache__").glob("*.nbi")
    with index.open("rb") as file:
        version = pickle.load(file)
    index.write_bytes(pickle.dumps(version) + rest)
    assert fresh().thrice(3) == 9
    third = fresh()
    assert third.thrice(3) == 9
    assert sum(third.thrice.stats.cache_hits.values()) == 1, "the index was replaced"


def test_a_part_may_be_called_from_python_too() -> None:
    @part
    def halved(x: float) -> float:
        return x / 2

    @jit
    def quartered(x: float) -> float:
        return float(halved(halved(x)))

    assert (halved(6.0), quartered(6.0), halved(3), halved(1.0)) == (3.0, 1.5, 1.5, 0.5)


def test_a_loop_that_another_process_compiles_is_waited_for(tmp_path) -> None:
    file = tmp_path / "waited_for.py"
    file.write_text("from snnrun.compiled.jit import jit\n\n\n@jit\ndef loop(x):\n    return 3 * x\n")
    spec = importlib.util.spec_from_file_location("waited_for", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["waited_for"] = module
    spec.loader.exec_module(module)
    found: list[int] = []
    call = threading.Thread(target=lambda: found.append(module.loop(3)))
    with locks.of_file(Path(module.loop._cache._cache_file._index_path).with_suffix(".lock")):
        call.start()
        call.join(0.3)
        assert not found
    call.join(30)
    assert found == [9]


def test_a_loop_is_told_before_it_is_compiled_but_not_its_parts() -> None:
    @part
    def doubled(x: int) -> int:
        return 2 * x

    def of_a_test(x: int) -> int:
        return int(doubled(x) + 1)

    told: list[str] = []
    loop = jit(of_a_test)
    with compiling(told.append):
        assert loop(3) == 7
        assert loop(4) == 9
    assert told == ["of_a_test"]
