"""ST-RSBP's fitted table of S-PSP against firing counts, made for a run's own time constants and number of steps.

For each input count n_in the table holds a polynomial of degree 4 in the output count n_out. It is fitted to the mean
S-PSP of random spike trains; its derivative is the estimate of de_ij / dn_i. The input and output trains are drawn
independently, so the mean factorises exactly:

    mean e(n_in, n_out) = sum over t of P(t; n_in) K(t; n_out)

P is the probability that an input train of n_in spikes fires at t. K is the mean readout of output trains of n_out
spikes. So two averages over trains are enough, and the table takes about a second.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from snnrun.kernels import Lif
from snnrun.kernels.reference import strsbp_readout

DRAWS = 1000
CHUNK = 100
DEGREE = 4


@lru_cache(maxsize=16)
def slope_table(
    tau_m: float, tau_s: float, t_ref: int, steps: int, rows: int = 100, authors_clock: bool = False
) -> Tensor:
    """Coefficients (rows, 5) float64, highest power first; row r - 1 belongs to n_in = r.

    Spike times are uniform over the steps, more than `t_ref` steps apart. The table ends earlier if the steps cannot
    hold `rows` spikes. `authors_clock` is the authors' generator: times from 0 to `steps` inclusive, the two ends half
    as likely; a spike at 0 silences an output train. The draws have a fixed seed.
    """
    rows = max(2 * DEGREE, min(rows, int(0.75 * steps / (t_ref + 1))))
    generator = torch.Generator().manual_seed(5)
    likelihood = torch.ones(steps + 1 if authors_clock else steps, dtype=torch.float64)
    if authors_clock:
        likelihood[[0, -1]] = 0.5
    lif = Lif(tau_m, tau_s, t_ref, 1.0)
    fires = torch.zeros(rows, len(likelihood), dtype=torch.float64)  # P
    reads = torch.zeros_like(fires)  # K
    for _ in range(0, DRAWS, CHUNK):
        fires += random_trains(likelihood, rows, t_ref, generator).double().sum(0) / DRAWS
        trains = random_trains(likelihood, rows, t_ref, generator)
        readout = strsbp_readout(trains.transpose(1, 2), lif, torch.float64).transpose(1, 2)
        if authors_clock:
            readout = readout * (trains[:, :, :1] == 0)
        reads += readout.sum(0) / DRAWS
    mean = fires @ reads.T  # (n_in, n_out)
    scale = torch.arange(1, rows + 1, dtype=torch.float64) / rows  # keeps the fit well conditioned
    powers = torch.arange(DEGREE, -1, -1)
    fit: Tensor = torch.linalg.lstsq(scale[:, None] ** powers, mean.T).solution  # (5, n_in)
    return (fit / (float(rows) ** powers.double())[:, None]).T.contiguous()


def random_trains(likelihood: Tensor, spikes: int, t_ref: int, generator: torch.Generator) -> Tensor:
    """Random trains that grow spike by spike: (CHUNK, spikes, T) uint8, entry [:, n - 1] with n spikes.

    Each spike is drawn among the steps more than `t_ref` away from those before it; a full train stops growing.
    """
    steps = len(likelihood)
    trains = torch.zeros(CHUNK, spikes, steps, dtype=torch.uint8)
    free = likelihood.repeat(CHUNK, 1)
    train = torch.zeros(CHUNK, steps, dtype=torch.uint8)
    for n in range(spikes):
        room = (free.sum(dim=1) > 0).nonzero().squeeze(1)
        time = torch.multinomial(free[room], 1, generator=generator).squeeze(1)
        train[room, time] = 1
        for offset in range(-t_ref, t_ref + 1):
            near = time + offset
            inside = (near >= 0) & (near < steps)
            free[room[inside], near[inside]] = 0.0
        trains[:, n] = train
    return trains
