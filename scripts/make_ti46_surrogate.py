#!/usr/bin/env python3
"""Makes a stand-in for TI46-Word of synthetic speech: the LDC's folders, names and file format, no recorded voice.

    .venv/bin/python scripts/make_ti46_surrogate.py data/ti46 --exact-counts       # all of it: 14,906 files
    .venv/bin/python scripts/make_ti46_surrogate.py small --speakers f1 m1 --sets digits --train 3 --sessions 1

espeak-ng speaks each letter or digit with the voice of one of 16 speakers. What makes the corpus a task and not a list
of copies comes after: pitch, pace and vocal tract drift from session to session and from token to token, the pace
within a word is uneven, the spectrum is bent, onsets are swallowed (which confuses B, D, E, G, P, T, V and Z, as they
are confused in speech), and there is noise. --variety scales the last five. A file depends on the seed and its name
alone. The folder gets a file SURROGATE, and each header says SURROGATE too, by which snnrun knows what it is.

Accuracies on it say nothing of TI46.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy import signal

from snnrun.data import ti46
from snnrun.data.folders import MARKER

Wave = NDArray[np.float64]

SETS = {"alpha": ti46.ALPHA, "digits": ti46.DIGITS}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPOKEN = dict(zip(ti46.DIGITS.words, NUMBERS, strict=True))
SPOKEN |= {word: word[1].upper() for word in ti46.ALPHA.words}  # a capital is read as the letter's name
FULL_SCALE = 2047  # 12 bits
NOISE = 1.7  # root mean square of the room's noise, in units of the last bit
LEAST_SHARE = 0.01  # of the peak: what is below it before and after the word is silence


class Voice(NamedTuple):
    """A speaker: espeak-ng's variant, pitch (0 to 99), pace (words a minute), and how short the vocal tract is."""

    variant: str
    pitch: float
    pace: float
    tract: float


VOICES = {
    "f1": Voice("f1", 60, 152, 1.03),
    "f2": Voice("f2", 54, 163, 1.00),
    "f3": Voice("f3", 69, 142, 1.05),
    "f4": Voice("f4", 51, 174, 0.99),
    "f5": Voice("f5", 57, 156, 1.04),
    "f6": Voice("linda", 53, 146, 1.01),
    "f7": Voice("Annie", 61, 169, 1.02),
    "f8": Voice("steph", 49, 159, 0.98),
    "m1": Voice("m1", 44, 151, 0.99),
    "m2": Voice("m2", 39, 164, 0.97),
    "m3": Voice("m3", 49, 141, 1.00),
    "m4": Voice("m4", 43, 176, 0.96),
    "m5": Voice("m5", 36, 154, 1.01),
    "m6": Voice("m6", 47, 147, 0.98),
    "m7": Voice("m7", 41, 171, 1.00),
    "m8": Voice("m8", 51, 158, 0.95),
}


class Item(NamedTuple):
    """A file to make."""

    task: ti46.Task
    part: str
    token: ti46.Token

    @property
    def path(self) -> Path:
        return Path(self.task.folder, self.part, self.token.speaker, f"{''.join(self.token)}.wav")


def generator(*key: object) -> np.random.Generator:
    words = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(words[:16], "little")))


# ---- a token --------------------------------------------------------------------------------------------------------


def token_wave(token: ti46.Token, seed: int, variety: float) -> NDArray[np.int16]:
    """The samples of one file, 12 bits in 16."""
    rng, day = generator(seed, *token), generator(seed, "session", token.speaker, token.session)
    voice = VOICES[token.speaker]
    pitch = voice.pitch + day.normal(0, 3) + rng.normal(0, 4)
    pace = (voice.pace + day.normal(0, 6)) * np.exp(rng.normal(0, 0.10 + 0.06 * variety))
    tract = voice.tract * np.exp(rng.normal(0, 0.01 + 0.02 * variety))
    wave = speak(SPOKEN[token.word], voice.variant, pitch, pace, tract)
    wave = bend_spectrum(bend_time(wave, rng, variety), rng, variety)
    wave = swallow_onset(wave, rng, variety)
    return recorded(wave, rng, variety)


def speak(text: str, variant: str, pitch: float, pace: float, tract: float) -> Wave:
    """What espeak-ng says, without the silence around it, at TI46's rate; a tract above 1 shifts the formants up."""
    options = ["-p", str(round(min(max(pitch, 0), 99))), "-s", str(round(min(max(pace, 90), 300)))]
    command = ["espeak-ng", "-v", f"en-us+{variant}", *options, "--stdout", text]
    stream = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    rate = int.from_bytes(stream[24:28], "little")
    # The header is 44 bytes and its lengths mean nothing, for it is written before the speech.
    wave = np.frombuffer(stream[44 : len(stream) - len(stream) % 2], "<i2").astype(np.float64)
    loud = np.flatnonzero(np.abs(wave) > LEAST_SHARE * np.abs(wave).max())
    return signal.resample_poly(wave[loud[0] : loud[-1] + 1], ti46.RATE // 50, round(rate * tract / 50))


def bend_time(wave: Wave, rng: np.random.Generator, variety: float) -> Wave:
    """An uneven pace: some of the word is slower, some faster."""
    pace = np.exp(curve(rng.normal(0, 0.18 * variety, 6), len(wave)))
    place = np.cumsum(pace)
    return np.interp((place - place[0]) / (place[-1] - place[0]) * (len(wave) - 1), np.arange(len(wave)), wave)


def bend_spectrum(wave: Wave, rng: np.random.Generator, variety: float) -> Wave:
    """Another microphone, room and voice quality: a gain in dB that walks over the frequencies."""
    gain = np.cumsum(rng.normal(0, 1.6 * variety, 33))
    gain = np.clip(gain - gain.mean(), -18, 18)
    return signal.fftconvolve(wave, signal.firwin2(129, np.linspace(0, 1, 33), 10 ** (gain / 20)), mode="same")


def swallow_onset(wave: Wave, rng: np.random.Generator, variety: float) -> Wave:
    """A beginning of 20 to 90 ms that sets in at a share of its loudness: the smaller, the larger the variety."""
    length = min(len(wave), round(ti46.RATE * rng.uniform(0.02, 0.09)))
    share = 1 - variety * rng.uniform(0, 1)
    return wave * np.concatenate([np.linspace(max(share, 0), 1, length), np.ones(len(wave) - length)])


def recorded(wave: Wave, rng: np.random.Generator, variety: float) -> NDArray[np.int16]:
    """Level, noise of breath and room, silence around, 12 bits."""
    wave = wave * np.exp(curve(rng.normal(0, 0.15, 2), len(wave)))  # it fades or grows
    breath = signal.lfilter([1], [1, -0.7], rng.normal(0, 1, len(wave)))
    distance = rng.normal(34 - 7 * variety, 4)  # of speech above the noise in its band, dB
    wave = wave + breath * np.sqrt(np.mean(wave**2) / np.mean(breath**2)) * 10 ** (-distance / 20)
    level = np.clip(10 ** (rng.normal(-7, 2.5) / 20), 0.05, 0.95)
    wave = wave / np.abs(wave).max() * level * FULL_SCALE
    before, after = (round(ti46.RATE * rng.uniform(0.08, 0.24)) for _ in range(2))
    wave = np.pad(wave, (before, after))
    wave = wave + rng.normal(0, NOISE * rng.uniform(0.6, 1.4), len(wave))
    return np.clip(np.rint(wave), -FULL_SCALE - 1, FULL_SCALE).astype("<i2")


def curve(values: Wave, length: int) -> Wave:
    """Values spread evenly over a length, with straight lines between."""
    return np.interp(np.linspace(0, len(values) - 1, length), np.arange(len(values)), values)


def sphere(samples: NDArray[np.int16], token: ti46.Token) -> bytes:
    """A NIST SPHERE file."""
    name = "".join(token)
    fields = [
        f"database_id -s{len(MARKER)} {MARKER}",
        f"utterance_id -s{len(name)} {name}",
        f"speaker_id -s2 {token.speaker}",
        "channel_count -i 1",
        f"sample_count -i {len(samples)}",
        f"sample_rate -i {ti46.RATE}",
        f"sample_min -i {samples.min()}",
        f"sample_max -i {samples.max()}",
        "sample_n_bytes -i 2",
        "sample_byte_format -s2 01",
        "sample_sig_bits -i 12",
        "end_head",
    ]
    return "\n".join(["NIST_1A", "   1024", *fields, ""]).encode().ljust(1024) + samples.tobytes()


# ---- the corpus -----------------------------------------------------------------------------------------------------


def items(sets: Sequence[str], speakers: Sequence[str], train: int, sessions: int) -> list[Item]:
    """All files of a full grid."""
    wanted = {
        "train": [("se", f"t{token}") for token in range(train)],
        "test": [(f"s{session}", f"t{token}") for session in range(1, sessions + 1) for token in range(2)],
    }
    return [
        Item(SETS[name], part, ti46.Token(word, speaker, *token))
        for name in sets
        for part, tokens in wanted.items()
        for speaker in speakers
        for word in SETS[name].words
        for token in tokens
    ]


def as_many_as_published(every: list[Item], seed: int) -> list[Item]:
    """Leave out tokens at random until each part has the number of files that TI46 has."""
    left = []
    for task in SETS.values():
        for part, number in task.papers.items():
            own = [item for item in every if item.task is task and item.part == part]
            chosen = generator(seed, "exact", task.folder, part).permutation(len(own))[:number]
            left += [own[position] for position in sorted(chosen)]
    return left


def check(options: argparse.Namespace) -> str:
    """What speaks against it, or nothing."""
    if shutil.which("espeak-ng") is None:
        return "espeak-ng is not installed. On Debian and Ubuntu: apt install espeak-ng"
    if options.exact_counts and (len(options.speakers), options.train, options.sessions) != (len(VOICES), 10, 8):
        return "--exact-counts needs all speakers, --train 10 and --sessions 8"
    out: Path = options.out
    if out.exists() and not out.is_dir():
        return f"{out} is no folder"
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        return f"{out} holds something else than a surrogate (there is no file {MARKER} in it). Choose another folder."
    return ""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make; ti46 in the data root is where snnrun looks")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--speakers", nargs="+", choices=VOICES, default=list(VOICES), metavar="f1")
    parser.add_argument("--train", type=int, choices=range(1, 11), default=10, metavar="N", help="of each word, to 10")
    parser.add_argument("--sessions", type=int, choices=range(1, 9), default=8, metavar="N", help="for tests, to 8")
    parser.add_argument("--exact-counts", action="store_true", help="leave out as many tokens as TI46 lacks")
    parser.add_argument("--variety", type=float, default=0.5, help="0: hardly any; 1: hard to tell apart")
    parser.add_argument("--seed", type=int, default=46)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="threads (default: one a core)")
    options = parser.parse_args(arguments)
    problem = check(options)
    if problem:
        print(f"make_ti46_surrogate: {problem}", file=sys.stderr)
        return 2
    todo = items(options.sets, options.speakers, options.train, options.sessions)
    if options.exact_counts:
        todo = as_many_as_published(todo, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / MARKER).write_text(
        "Synthetic speech in the form of TI46-Word (LDC93S9), made by scripts/make_ti46_surrogate.py\n"
        f"with --seed {options.seed} --variety {options.variety:g}. Accuracies on it say nothing of TI46.\n",
        encoding="utf-8",
    )
    for folder in {item.path.parent for item in todo}:
        (options.out / folder).mkdir(parents=True, exist_ok=True)

    def make(item: Item) -> None:
        content = sphere(token_wave(item.token, options.seed, options.variety), item.token)
        (options.out / item.path).write_bytes(content)

    with ThreadPoolExecutor(options.jobs) as pool:
        for _ in track(pool.map(make, todo), description="speaking", total=len(todo)):
            pass
    print(f"{len(todo):,} files in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
