from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from corpora import RECORDINGS, events_file
from hypothesis import given
from hypothesis import strategies as st

from snnrun import cli, data, tracking
from snnrun.data import events, folders
from snnrun.data.binning import binned
from snnrun.errors import SnnrunError, UsageError

SCRIPT = Path(__file__).parents[1] / "scripts" / "make_ntidigits_surrogate.py"


def load(root: Path, **options: Any) -> data.Dataset:
    return data.load("ntidigits", root=root, download=False, **{"validation": 0, **options})


def failure(root: Path, kind: type[SnnrunError] = SnnrunError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        load(root, **options)
    return str(error.value)


def spiking(sample: np.ndarray) -> list[tuple[int, int]]:
    """Step and channel of each spike of bits (T, 1)."""
    return [(step, n) for step, word in enumerate(sample[:, 0].tolist()) for n in range(64) if word >> n & 1]


# ---- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["ntidigits", "."])
def test_single_digits(tmp_path: Path, place: str) -> None:
    events_file(tmp_path, place=place)
    corpus = load(tmp_path)
    assert (corpus.kind, corpus.shape, corpus.channels, corpus.steps) == ("spikes", (64,), 64, 700)
    assert corpus.classes == tuple("z123456789o")
    assert corpus.train.samples.dtype == np.int64
    assert corpus.train.samples.shape == (4, 700, 1)
    assert corpus.train.labels.tolist() == [0, 0, 10, 10]
    assert corpus.test.labels.tolist() == [9, 9]
    assert [spiking(sample) for sample in corpus.train.samples] == [
        [(0, 0), (1, 63)],  # two events of a channel in one step
        [(312, 5)],
        [(0, 1), (699, 2)],
        [(0, 1)],
    ]
    assert [spiking(sample) for sample in corpus.test.samples] == [[(10, 7)], []]
    assert corpus.label == "ntidigits"
    assert corpus.notes[:3] == (
        "1 recordings of several digits are not used",
        "1 events of 1 of 6 recordings come after the last step (data.steps=700) and are left out; `snnrun data stats` "
        "says when they come",
        "1 of 9 events (11 %) share a step and a channel with another, and are one spike with it",
    )
    assert "train: there is nothing of classes 1, 2, 3, 4, 5, 6, 7, 8, 9" in corpus.notes


def test_the_two_splits_are_apart(tmp_path: Path) -> None:
    events_file(tmp_path)
    official, takes = load(tmp_path), load(tmp_path, split="ab")
    assert (len(official.train), len(official.test)) == (4, 2)
    assert (takes.train.labels.tolist(), takes.test.labels.tolist()) == ([0, 10, 9], [0, 10, 9])
    assert spiking(takes.test.samples[0]) == [(312, 5)]
    assert official.digest != takes.digest


def test_the_order_of_the_classes(tmp_path: Path) -> None:
    events_file(tmp_path)
    corpus = load(tmp_path, class_order="oh_first")
    assert corpus.classes == tuple("o123456789z")
    assert corpus.train.labels.tolist() == [10, 10, 0, 0]
    assert corpus.test.labels.tolist() == [9, 9]
    assert corpus.digest != load(tmp_path).digest


def test_the_length_of_a_step(tmp_path: Path) -> None:
    events_file(tmp_path)
    corpus = load(tmp_path, bin_ms=100, steps=12)
    assert [spiking(sample) for sample in corpus.train.samples] == [
        [(0, 0), (0, 63)],
        [(5, 5)],
        [(0, 1), (11, 2)],
        [(0, 1)],
    ]


@given(
    st.lists(st.tuples(st.integers(0, 63), st.floats(0, 2)), max_size=60),
    st.sampled_from([0.5, 1.0, 1.6, 3.7, 100.0]),
    st.integers(1, 900),
)
def test_binning_is_that_of_the_definition(found: list[tuple[int, float]], bin_ms: float, steps: int) -> None:
    found.sort(key=lambda event: event[1])
    channels, times = (np.array([event[i] for event in found], kind) for i, kind in enumerate((np.int64, np.float64)))
    bits, late, merged, count = binned((times * 1e3 / bin_ms).astype(np.int64), channels, steps, 64)
    assert bits.shape == (steps, 1)
    assert bits.dtype == np.int64
    wanted = {(int(time * 1000 / bin_ms), channel) for channel, time in found}
    assert set(spiking(bits)) == {(step, channel) for step, channel in wanted if step < steps}
    assert late == sum(int(time * 1000 / bin_ms) >= steps for _, time in found)
    assert (merged, count) == (len(found) - late - int(np.bitwise_count(bits.view(np.uint64)).sum()), len(found))


@given(
    st.sampled_from(["man", "woman", "boy"]),
    st.from_regex(r"[a-z]{2}", fullmatch=True),
    st.sampled_from("ab"),
    st.text("zo123456789", min_size=1, max_size=7),
    st.booleans(),
)
def test_names_of_both_manners(gender: str, speaker: str, take: str, digits: str, upper: bool) -> None:
    for last in (f"{take}-{digits}", f"{digits}{take}"):
        name = f"{gender}-{speaker}-{last}"
        assert events.parse(name.upper() if upper else name) == (gender, speaker, take, digits)


@given(st.text(max_size=20) | st.from_regex(r"(man-)?[a-z]*-?[abc]?-?[zo0-9]*[abc]?", fullmatch=True))
def test_a_name_is_read_or_refused(label: str) -> None:
    try:
        name = events.parse(label)
    except ValueError:
        return
    assert label.lower() in (
        f"{name.gender}-{name.speaker}-{name.take}-{name.digits}",
        f"{name.gender}-{name.speaker}-{name.digits}{name.take}",
    )


@pytest.mark.parametrize("kind", ["bytes", "text", "objects"])
def test_labels_of_several_types(tmp_path: Path, kind: str) -> None:
    path = events_file(tmp_path)
    digest = load(tmp_path).digest
    with h5py.File(path, "a") as file:
        labels = file["train_labels"][()].tolist()
        del file["train_labels"]
        if kind == "bytes":
            file["train_labels"] = np.array(labels, "S").reshape(1, -1)
        else:
            file.create_dataset("train_labels", data=[label.decode() for label in labels], dtype=h5py.string_dtype())
    assert load(tmp_path).digest == digest


def test_what_is_stored_as_integers_and_twice(tmp_path: Path) -> None:
    path = events_file(tmp_path)
    with h5py.File(path, "a") as file:
        labels = file["test_labels"][()]
        del file["test_labels"], file["test_addresses/man-xy-a-9"]
        file["test_labels"] = np.concatenate([labels, labels])
        file["test_addresses/man-xy-a-9"] = np.array([7], np.uint8)
    assert len(load(tmp_path).test) == 2


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_the_file_is_missing(tmp_path: Path) -> None:
    message = failure(tmp_path)
    assert str(tmp_path / "ntidigits" / "n-tidigits.hdf5") in message
    assert "360a2d11e5429555c9197381cf6b58e0" in message
    assert events.SOURCE in message
    assert "terms" in message
    assert "SNNRUN_DATA" in message


def test_h5py_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events_file(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'snnrun[events]'" in failure(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(5000)])
def test_no_hdf5(tmp_path: Path, content: bytes) -> None:
    path = events_file(tmp_path)
    path.write_bytes(content)
    message = failure(tmp_path)
    assert message.startswith(f"{path}: it is no HDF5 file; replace it")
    assert events.MD5 in message


def test_cut_short(tmp_path: Path) -> None:
    path = events_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: it is cut short; get it anew" in failure(tmp_path)


@pytest.mark.slow
def test_damaged_anywhere(tmp_path: Path) -> None:
    path = events_file(tmp_path)
    content, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load(tmp_path)
        except SnnrunError as error:
            refused += str(path) in str(error)
    assert refused > 50


def test_labels_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = events_file(tmp_path)

    def refuse(*arguments: object) -> None:
        raise OSError("filter returned failure")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse)
    assert f"{path}: /train_labels cannot be read (filter returned failure); get the file anew" in failure(tmp_path)


def test_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events_file(tmp_path)

    def refuse(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(h5py, "File", refuse)
    assert "it cannot be read (Permission denied); check its permissions" in failure(tmp_path)
    monkeypatch.setattr(Path, "is_file", refuse)
    assert "cannot look for" in failure(tmp_path)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("train_labels", "it has no dataset train_labels"),
        ("train_addresses", "it has no group train_addresses"),
        ("test_timestamps", "it has no group test_timestamps"),
    ],
)
def test_a_part_of_the_file_is_missing(tmp_path: Path, entry: str, words: str) -> None:
    path = events_file(tmp_path)
    with h5py.File(path, "a") as file:
        del file[entry]
    message = failure(tmp_path)
    assert f"{path}: {words}, so it is not N-TIDIGITS18" in message
    with h5py.File(path, "a") as file:
        file[entry] = 3 if words.count("group") else np.array([], "S1")
    if "group" in words:
        assert words in failure(tmp_path)


@pytest.mark.parametrize(
    ("channels", "times", "words"),
    [
        ([64], [0.1], "some channels are not whole numbers from 0 to 63"),
        ([-1], [0.1], "some channels are not whole numbers from 0 to 63"),
        ([1.5], [0.1], "some channels are not whole numbers from 0 to 63"),
        ([float("nan")], [0.1], "some channels are not whole numbers from 0 to 63"),
        ([1], [-0.1], "some times are below 0"),
        ([1, 2], [0.1, float("nan")], "some times are NaN or infinite"),
        ([1, 2], [0.1, float("inf")], "some times are NaN or infinite"),
        ([1, 2, 3], [0.1, 0.2], "it has 3 addresses and 2 timestamps"),
        (["x"], [0.1], "its addresses cannot be read"),
    ],
)
def test_events_that_cannot_be_used(tmp_path: Path, channels: list[Any], times: list[float], words: str) -> None:
    values = [value.encode() if isinstance(value, str) else value for value in channels]
    path = events_file(tmp_path, {**RECORDINGS, "test": {**RECORDINGS["test"], "man-xy-a-3": (values, times)}})
    message = failure(tmp_path)
    assert message.startswith("data=ntidigits: a file cannot be used:\n")
    assert f"{path}: test recording man-xy-a-3: {words}; get the file anew" in message


def test_labels_without_events(tmp_path: Path) -> None:
    path = events_file(tmp_path)
    with h5py.File(path, "a") as file:
        del file["train_addresses/man-ae-a-z"], file["train_timestamps/woman-bc-a-o"]
    message = failure(tmp_path)
    assert "2 files cannot be used" in message
    assert "train recording man-ae-a-z: it has no addresses" in message
    assert "train recording woman-bc-a-o: it has no timestamps" in message


def test_a_name_that_says_nothing(tmp_path: Path) -> None:
    events_file(tmp_path, {**RECORDINGS, "test": {**RECORDINGS["test"], "man-xy-c-3": ([1], [0.1])}})
    assert "test recording 'man-xy-c-3': a name such as man-ae-a-1 is wanted" in failure(tmp_path)


def test_nothing_to_test_on(tmp_path: Path) -> None:
    events_file(tmp_path, {**RECORDINGS, "test": {}})
    assert "nothing is left to test on" in failure(tmp_path)
    assert len(load(tmp_path, split="ab").test) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "both"}, "data.split: 'both' is not allowed. Allowed: official, ab"),
        ({"class_order": "z"}, "data.class_order: 'z' is not allowed. Allowed: zero_first, oh_first"),
        ({"bin_ms": 0}, "data.bin_ms: 0 is out of range. Allowed: greater than 0"),
        ({"bin_ms": float("nan")}, "data.bin_ms: nan"),
        ({"steps": 0}, "data.steps: 0 is out of range"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    events_file(tmp_path)
    assert words in failure(tmp_path, UsageError, **options)


# ---- surrogates -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("surrogate")
    answer = make(root / "ntidigits", "--speakers", 3, 2, "--strings", 2)
    assert answer.returncode == 0, answer.stderr
    return root


def make(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.launches
def test_the_generated_file_has_the_structure_and_says_what_it_is(surrogate: Path, tmp_path: Path) -> None:
    corpus = load(surrogate)
    assert (len(corpus.train), len(corpus.test)) == (66, 44)
    assert np.bincount(corpus.train.labels).tolist() == [6] * 11
    assert corpus.label == "ntidigits (surrogate)"
    assert "10 recordings of several digits are not used" in corpus.notes
    assert not any("nothing of classes" in note for note in corpus.notes)
    takes = load(surrogate, split="ab")
    assert (len(takes.train), len(takes.test)) == (55, 55)
    content = (surrogate / "ntidigits" / "n-tidigits.hdf5").read_bytes()
    (tmp_path / "n-tidigits.hdf5").write_bytes(content)  # without its marker
    assert load(tmp_path).label == "ntidigits (surrogate)"


@pytest.mark.launches
def test_a_marker_makes_a_surrogate(tmp_path: Path) -> None:
    path = events_file(tmp_path)
    (path.parent / folders.MARKER).touch()
    assert load(tmp_path).label == "ntidigits (surrogate)"


@pytest.mark.launches
def test_generated_events_resemble_a_cochleas(surrogate: Path) -> None:
    corpus = load(surrogate, steps=1000)
    bits = corpus.train.samples.view(np.uint64)
    counts = np.bitwise_count(bits).sum(axis=(1, 2))
    assert 800 < counts.mean() < 3000
    channels = np.stack([(bits[:, :, 0] >> np.uint64(n) & np.uint64(1)).sum(axis=1) for n in range(64)], axis=1)
    assert (channels > 0).sum(axis=1).mean() > 25
    takes = np.sqrt(channels).reshape(3, 11, 2, 64)  # speakers, digits, takes
    apart = np.linalg.norm(
        takes[:, :, None, 0] - takes[:, None, :, 1], axis=-1
    )  # of a digit from another's second take
    assert (apart.argmin(axis=2) == np.arange(11)).mean() > 0.7


@pytest.mark.launches
def test_the_generator_is_reproducible_and_keeps_its_hands_off_a_real_file(surrogate: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "same" / "ntidigits", "--speakers", 3, 2, "--strings", 2).returncode == 0
    assert load(tmp_path / "same").digest == load(surrogate).digest
    assert make(tmp_path / "other" / "ntidigits", "--speakers", 3, 2, "--seed", 1).returncode == 0
    assert load(tmp_path / "other").digest != load(surrogate).digest
    content = events_file(tmp_path).read_bytes()
    answer = make(tmp_path / "ntidigits", "--speakers", 1, 1)
    assert answer.returncode == 2
    assert "is no surrogate" in answer.stderr
    assert (tmp_path / "ntidigits" / "n-tidigits.hdf5").read_bytes() == content
    for wrong in (["--speakers", 0, 1], ["--speakers", 600, 100], ["--strings", -1]):
        assert make(tmp_path / "wrong", *wrong).returncode == 2


# ---- in a run -------------------------------------------------------------------------------------------------------


@pytest.mark.launches
def test_a_run_says_and_records_what_it_ran_on(
    surrogate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record: dict[str, str] = {}
    opened = tracking.open_tracker

    def spy(**settings: Any) -> Any:
        tracker = opened(**settings)
        record["run"] = settings["run_name"]
        monkeypatch.setattr(tracker, "tags", record.update)
        monkeypatch.setattr(tracker, "dataset", lambda name, digest, sizes: record.update(dataset=name))
        return tracker

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "open_tracker", spy)
    short = ["model.network=5", "model.v_th=3", "train.epochs=1", "data.steps=60", "data.limit=20", "tuned=none"]
    arguments = ["data=ntidigits", f"data.root={surrogate}", "hardware=cpu", "tracking=none", *short]
    assert cli.main(["train", *arguments]) == 0
    out = capsys.readouterr().out
    assert "ntidigits (surrogate)  (" in out
    assert "ntidigits (surrogate): 10 recordings of several digits are not used" in out
    assert (record["run"], record["dataset"]) == ("strsbp_ntidigits_surrogate_0", "ntidigits (surrogate)")
    assert record["data.origin"] == "surrogate"
    assert record["data.notes"].startswith("10 recordings of several digits are not used; ")
