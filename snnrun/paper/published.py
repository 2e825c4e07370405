"""What the papers and their authors' released logs report, for comparison with runs of this program.

Accuracies are in percent. "Best" is what the papers call so: the maximum over the epochs on the TEST set, of several
runs where the paper has several. Epochs count from 1 (the ST-RSBP paper's tables count from 0). Seconds are those of
training in one epoch, batch 1, on a Titan XP. The least counts for the hardware, since several jobs shared it at times.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STRSBP = "Zhang and Li 2019 (ST-RSBP)"
HM2BP = "Jin, Zhang and Li 2018 (HM2-BP)"
STBP = "Wu et al. 2018 (STBP)"


@dataclass(frozen=True)
class Published:
    """One row: `network` as `model.network` has it; `curve` is test accuracy by epoch, from the authors' log.

    `best_epoch` and `epochs` (how long the run of the log went on) are the log's; `runs` is how many the best is of.
    `seconds` are the least and the median of an epoch.
    """

    rule: str
    data: str
    network: str
    best: float
    source: str
    mean: float | None = None
    std: float | None = None
    runs: int | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    curve: dict[int, float] = field(default_factory=dict)
    seconds: tuple[float, float] | None = None
    note: str = ""


def _curve(*points: float) -> dict[int, float]:
    return dict(zip((1, 5, 10, 20, 50), points, strict=True))


ROWS = (
    Published(
        *("strsbp", "fashion_mnist", "400-R400", 90.13, f"{STRSBP}, table and released log"),
        mean=90.00,
        runs=5,
        best_epoch=37,
        epochs=94,
        curve=_curve(84.71, 87.67, 88.91, 89.75, 89.64),
        seconds=(911, 940),
    ),
    Published(
        *("strsbp", "mnist", "15C5-P2-40C5-P2-300", 99.62, f"{STRSBP}, Table 6 and released log"),
        best_epoch=66,
        epochs=100,
        curve=_curve(96.20, 98.83, 98.97, 99.14, 98.83),
        seconds=(1689, 1924),
    ),
    Published(
        *("strsbp", "ti46_alpha", "400-R400-400", 93.35, f"{STRSBP}, table; curve of the released log (best 93.23)"),
        runs=5,
        best_epoch=58,
        epochs=115,
        curve=_curve(61.30, 82.80, 90.03, 90.95, 92.31),
        seconds=(80, 88),
        note="The best run of the table is not the one of the log.",
    ),
    Published(
        *("strsbp", "ti46_alpha", "R800", 91.85, f"{STRSBP}, table"),
        runs=5,
        note="The released log of this name is of R800-400, and has this very maximum.",
    ),
    Published(
        *("strsbp", "ti46_alpha", "R800-400", 91.85, f"{STRSBP}, released log named R800"),
        best_epoch=26,
        epochs=150,
        curve=_curve(56.70, 86.90, 90.53, 91.14, 91.10),
        seconds=(60, 156),
    ),
    Published(
        *("strsbp", "ti46_digits", "200-R200-200", 99.39, f"{STRSBP}, table and released log"),
        best_epoch=24,
        epochs=368,
        curve=_curve(85.45, 97.37, 96.44, 98.75, 98.79),
        seconds=(59, 145),
    ),
    Published(
        *("strsbp", "ti46_digits", "R100-100", 98.95, f"{STRSBP}, table and released log"),
        best_epoch=76,
        epochs=201,
        curve=_curve(79.63, 95.55, 97.82, 97.78, 98.34),
        note="Its seconds are of a shared GPU and left out.",
    ),
    Published(
        *("strsbp", "ti46_digits", "R200-200", 99.27, f"{STRSBP}, table and released log"),
        best_epoch=98,
        epochs=197,
        curve=_curve(84.56, 97.45, 97.33, 97.62, 99.03),
        note="The paper says 28 epochs, the log 98. Its seconds are of a shared GPU and left out.",
    ),
    Published(
        *("strsbp", "ntidigits", "250-R250", 93.13, f"{STRSBP}, table and released log"),
        best_epoch=269,
        epochs=400,
        curve=_curve(41.47, 59.30, 71.67, 81.04, 89.01),
        seconds=(31, 32),
        note="2,475 training samples, as data.split=ab has them.",
    ),
    Published(
        *("strsbp", "ntidigits", "400-R400-400", 93.90, f"{STRSBP}, table and released log"),
        best_epoch=204,
        epochs=400,
        curve=_curve(48.83, 67.99, 72.76, 85.04, 89.25),
        seconds=(47, 84),
        note="The paper says 287 epochs, the log 204. 2,475 training samples, as data.split=ab has them.",
    ),
    Published(
        *("hm2bp", "mnist", "800", 98.93, f"{HM2BP}, released log"),
        best_epoch=101,
        epochs=200,
        curve=_curve(97.32, 98.45, 98.57, 98.64, 98.79),
        seconds=(471, 596),
    ),
    Published(
        *("hm2bp", "mnist", "15C5-P2-40C5-P2-300", 99.49, f"{HM2BP}, released log"),
        best_epoch=191,
        epochs=200,
        curve=_curve(95.74, 96.42, 98.24, 99.18, 99.20),
        seconds=(1024, 1672),
    ),
    Published(
        *("hm2bp", "nmnist", "800", 98.88, f"{HM2BP}, released log"),
        best_epoch=56,
        epochs=200,
        curve=_curve(97.09, 98.41, 98.67, 98.77, 98.78),
        seconds=(597, 675),
    ),
    Published(*("stbp", "mnist", "400", 98.48, f"{STBP}, text on surrogates and ablations"), epochs=200),
    Published(*("stbp", "nmnist", "400-400", 98.78, f"{STBP}, text")),
)


def row_of(rule: str, data: str, network: str) -> Published | None:
    """The published row of a rule and a network on a corpus, or None."""
    for row in ROWS:
        if (row.rule, row.data, row.network) == (rule, data, network):
            return row
    return None


def others_of(data: str, networks: set[tuple[str, str]]) -> list[Published]:
    """The rows of a corpus whose (rule, network) is none of these."""
    return [row for row in ROWS if row.data == data and (row.rule, row.network) not in networks]
