"""Make the golden cases, `golden/*.npz`: `python tests/make_golden.py`. The same numbers every time.

Inputs are random with fixed seeds, weights rounded to float32, so that a simulator in either precision starts from the
same ones. Every membrane of a case keeps `CLEAR` mV from the threshold: rounding cannot move a spike.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simulation as sim
from simulation import Neuron

FOLDER = Path(__file__).parent / "golden"
CLEAR, SLACK = 1e-4, 1e-6  # mV; dense layers and pools fire from v_th - SLACK, convolutions from v_th
REGULARISER = (10.0, 0.04, 8.0)
TARGETS = (35.0, 5.0, 5.0)  # desired, undesired, margin


def weights(rng, *shape, scale=1.0):
    return (scale * rng.uniform(-1, 1, shape)).astype(np.float32)


def trains(rng, steps, neurons, rate):
    """Spikes of neurons of different rates, the second one silent, the first one firing at step 0."""
    spikes = (rng.random((steps, neurons)) < rate * rng.uniform(0.3, 1.5, neurons)).astype(np.uint8)
    spikes[:, 1], spikes[0, 0] = 0, 1
    return spikes


def fired(seen, weight, spikes_in, neuron, loop=None, slack=SLACK):
    spikes, nearest = sim.fire(seen, weight.astype(float), spikes_in, neuron, loop, slack)
    assert nearest > CLEAR, f"a membrane comes within {nearest} mV of the threshold: choose another seed"
    return spikes


def table_of(rng, rows):
    """Coefficients (rows, 5) whose slopes are of the size of the fitted ones; the first row is that of one spike."""
    return rng.normal(size=(rows, 5)) * [1e-7, 1e-5, 1e-3, 0.1, 1.0]


def hm2bp_network(seed, effect_ratio, strength):
    """Two dense layers, one step of gradient descent. The label is silent, so its train is imposed."""
    rng = np.random.default_rng(seed)
    steps, label, rate = 110, 2, 1e-3
    hidden, output = Neuron(1.0, 20.0, 8.0, 2), Neuron(0.7, 20.0, 8.0, 2)
    w_hid, w_out = weights(rng, 7, 10), weights(rng, 5, 7)
    w_hid[3] = -np.abs(w_hid[3])  # a silent neuron
    w_out[label] = -np.abs(w_out[label])
    s_in = trains(rng, steps, 10, 0.2)
    s_hid = fired(sim.dense(7, 10), w_hid, s_in, hidden)
    s_out = fired(sim.dense(5, 7), w_out, s_hid, output, strength * (np.eye(5) - 1))
    assert not s_out[:, label].any()
    factor = sim.lateral_factor("hm2bp", s_out, label, output, strength, 1.0)
    error = sim.output_error(s_out.sum(0), label, *TARGETS)
    taught = sim.revived(s_out, label, TARGETS[0], 2)
    g_out, below = sim.hm2bp_backward(
        sim.dense(5, 7), w_out.astype(float), s_hid, taught, error, output, factor=factor, effect_ratio=effect_ratio
    )
    g_hid, _ = sim.hm2bp_backward(sim.dense(7, 10), w_hid.astype(float), s_in, s_hid, below, hidden)
    g_hid += sim.penalty(w_hid.astype(float), 10, *REGULARISER)
    g_out += sim.penalty(w_out.astype(float), 7, *REGULARISER)
    return {
        "s_in": s_in, "w_hid": w_hid, "w_out": w_out, "s_hid": s_hid, "s_out": s_out, "label": label, "rate": rate,
        "v_th": [hidden.v_th, output.v_th], "tau_m": 20.0, "effect_ratio": effect_ratio, "lateral": strength,
        "factor": factor, "taught": taught, "below": below, "grad_hid": g_hid, "grad_out": g_out,
        "w_hid_after": w_hid - rate * g_hid, "w_out_after": w_out - rate * g_out,
    }  # fmt: skip


def strsbp_output(seed, steps, silent):
    """An output layer with inhibition and the slope table; its label is silent. 35 spikes do not fit where T < 105."""
    rng = np.random.default_rng(seed)
    neuron, label = Neuron(1.0, 20.0, 8.0, 2), 1
    w, table, s_in = weights(rng, 6, 9), table_of(rng, 12), trains(rng, steps, 9, 0.3)
    w[label] = -np.abs(w[label])
    spikes = fired(sim.dense(6, 9), w, s_in, neuron, np.eye(6) - 1)
    assert not spikes[:, label].any()
    error = sim.output_error(spikes.sum(0), label, 35.0, 1.0, 0.5)
    factor = sim.lateral_factor("strsbp", spikes, label, neuron, 1.0, silent)
    taught = sim.revived(spikes, label, 35.0, 2)
    grad, below, d = sim.strsbp_backward(
        sim.dense(6, 9), w.astype(float), s_in, taught, error, neuron, silent=silent, table=table, factor=factor
    )
    spsp = sim.effects("strsbp", sim.dense(6, 9), s_in, taught, neuron)
    return {
        "s_in": s_in, "w": w, "table": table, "label": label, "v_th": neuron.v_th, "tau_m": 20.0, "silent": silent,
        "error": error, "spikes": spikes, "factor": factor, "taught": taught, "spsp": spsp, "denominator": d,
        "below": below, "grad": grad + sim.penalty(w.astype(float), 10, *REGULARISER),
    }  # fmt: skip


def strsbp_recurrent(seed, inputs, silent):
    """A recurrent layer with the slope table: the paper's error below, and the one of the authors' solver call."""
    rng = np.random.default_rng(seed)
    neuron, size = Neuron(1.0, 20.0, 8.0, 2), 7
    w, table, s_in = weights(rng, size, inputs), table_of(rng, 12), trains(rng, 90, inputs, 0.25)
    loop = np.where(rng.random((size, size)) < 0.5, weights(rng, size, size), np.float32(0.0))
    w[3], loop[3] = -np.abs(w[3]), -np.abs(loop[3])  # a silent neuron
    spikes = fired(sim.dense(size, inputs), w, s_in, neuron, loop.astype(float))
    error = rng.normal(size=size).astype(np.float32).astype(float)
    wide, own = w.astype(float), loop.astype(float)
    made = sim.strsbp_recurrent_backward(wide, own, s_in, spikes, error, neuron, silent=silent, table=table)
    fan_in = int((loop != 0).sum()) + inputs + 1
    made["grad_in"] += sim.penalty(wide, fan_in, *REGULARISER, also=own)
    made["grad_rec"] += sim.penalty(own, fan_in, *REGULARISER, also=wide)
    given = {"s_in": s_in, "w": w, "wr": loop, "table": table, "v_th": neuron.v_th, "tau_m": 20.0, "silent": silent}
    return {**given, "error": error, "spikes": spikes, **made}


def image_layers(seed):
    """A convolution of 3 kernels over 2 channels and a pool on it, by each spike-train-level rule's backward pass."""
    rng = np.random.default_rng(seed)
    conv, pool = sim.convolution(2, 6, 6, 3, 3), sim.pool(3, 4, 4, 2)
    at_conv, at_pool = Neuron(2.0, 20.0, 8.0, 2), Neuron(1.5, 20.0, 8.0, 2)
    w, ones, s_in = weights(rng, 3, 2, 3, 3), np.ones((3, 1, 2, 2)), trains(rng, 60, 72, 0.2)
    s_conv = fired(conv, w, s_in, at_conv, slack=0.0)
    s_pool = fired(pool, ones, s_conv, at_pool)
    wide = w.astype(float)
    e_conv, e_pool = (rng.normal(size=n).astype(np.float32).astype(float) for n in (48, 12))
    hm2bp = sim.hm2bp_backward(conv, wide, s_in, s_conv, e_conv, at_conv)
    strsbp = sim.strsbp_backward(conv, wide, s_in, s_conv, e_conv, at_conv, silent=0.5)
    return {
        "s_in": s_in, "w": w, "v_conv": 2.0, "v_pool": 1.5, "tau_m": 20.0, "s_conv": s_conv, "s_pool": s_pool,
        "error_conv": e_conv, "error_pool": e_pool,
        "hm2bp_grad": hm2bp[0], "hm2bp_below": hm2bp[1],
        "hm2bp_pool_below": sim.averaged_pool_backward(pool, s_conv, s_pool, e_pool, at_pool, silent=1.0),
        "strsbp_grad": strsbp[0], "strsbp_below": strsbp[1],
        "strsbp_pool_below": sim.strsbp_backward(pool, ones, s_conv, s_pool, e_pool, at_pool, silent=0.5)[1],
        "authors_pool_below": sim.averaged_pool_backward(pool, s_conv, s_pool, e_pool, at_pool, silent=0.0),
    }  # fmt: skip


STBP_CASES = {
    "rectangle": {"width": 1.0},
    "polynomial": {"width": 1.5},
    "sigmoid": {"width": 0.7},
    "gaussian": {"width": 0.6, "strict": True},
    "exponential": {"width": 1.0, "exponential": True},
    "sdbp": {"width": 1.0, "in_time": False},
}


def stbp_pass(name, layers, values, wanted):
    """Spikes of two layers, and gradients of L = 1/2 |y - rate|^2; `layers`: what each sees, weights, biases."""
    options = STBP_CASES[name]
    kind = name if name in ("polynomial", "sigmoid", "gaussian") else "rectangle"
    forward = {k: v for k, v in options.items() if k in ("strict", "exponential")}
    backward = {k: v for k, v in options.items() if k in ("exponential", "in_time")}
    v_th, decay, made, runs = 0.5, 0.3, {}, []
    for number, (seen, weight, bias) in enumerate(layers):
        runs.append((values, *sim.stbp_forward(seen, weight, bias, values, v_th, decay, **forward)))
        assert np.abs(runs[-1][2] - v_th).min() > CLEAR
        values = made[f"s{number}"] = runs[-1][1]
    error = np.tile((values.mean(0) - wanted) / len(values), (len(values), 1))
    for number in (1, 0):
        seen, weight, _ = layers[number]
        gradient, bias, error = sim.stbp_backward(
            seen, weight, *runs[number], error, v_th, decay, kind, options["width"], **backward
        )
        made[f"grad{number}"], made[f"bias{number}"] = gradient, bias
    return {f"{name}_{key}": value for key, value in made.items()}


def stbp_dense(seed):
    rng = np.random.default_rng(seed)
    w = [weights(rng, 8, 10), weights(rng, 4, 8)]
    b = [weights(rng, 8, scale=0.2), weights(rng, 4, scale=0.2)]
    s_in = trains(rng, 15, 10, 0.4)
    layers = [(sim.dense(*x.shape), x.astype(float), y.astype(float)) for x, y in zip(w, b, strict=True)]
    made = {"s_in": s_in, "w0": w[0], "w1": w[1], "b0": b[0], "b1": b[1], "label": 3, "v_th": 0.5, "decay": 0.3}
    for name in STBP_CASES:
        made |= stbp_pass(name, layers, s_in.astype(float), np.eye(4)[3])
    return made


def stbp_images(seed):
    """A convolution, and a dense layer on averages of 2 x 2 squares: a pixel has a quarter of its square's weight."""
    rng = np.random.default_rng(seed)
    w, b = [weights(rng, 3, 2, 3, 3), weights(rng, 4, 12, scale=2.0)], [weights(rng, 3), weights(rng, 4)]
    s_in = trains(rng, 12, 72, 0.3)
    averaged = [
        [(j, (i, square)) for square, pixels in enumerate(sim.pool(3, 4, 4, 2)) for j, _ in pixels] for i in range(4)
    ]
    layers = [
        (sim.convolution(2, 6, 6, 3, 3), w[0].astype(float), np.repeat(b[0].astype(float), 16)),
        (averaged, w[1].astype(float) / 4, b[1].astype(float)),
    ]
    made = {"s_in": s_in, "w0": w[0], "w1": w[1], "b0": b[0], "b1": b[1], "label": 3, "v_th": 0.5, "decay": 0.3}
    made |= stbp_pass("rectangle", layers, s_in.astype(float), np.eye(4)[3])
    made["rectangle_grad1"] /= 4
    made["rectangle_bias0"] = made["rectangle_bias0"].reshape(3, 16).sum(1)
    return made


def bsa(seed):
    rng = np.random.default_rng(seed)
    signal = np.cumsum(rng.normal(size=(5, 12)), axis=1) ** 2 * 3e-5
    return {"signal": signal, "spikes": sim.bsa(signal, 110)}


CASES = {
    "hm2bp_network": lambda: hm2bp_network(1, effect_ratio=True, strength=1.0),
    "hm2bp_bare_weights": lambda: hm2bp_network(2, effect_ratio=False, strength=0.5),
    "strsbp_output": lambda: strsbp_output(3, steps=110, silent=0.5),
    "strsbp_output_short": lambda: strsbp_output(4, steps=40, silent=0.0),
    "strsbp_recurrent": lambda: strsbp_recurrent(5, inputs=9, silent=0.5),
    "strsbp_recurrent_square": lambda: strsbp_recurrent(6, inputs=7, silent=0.0),
    "images": lambda: image_layers(7),
    "stbp_dense": lambda: stbp_dense(8),
    "stbp_images": lambda: stbp_images(9),
    "bsa": lambda: bsa(10),
}


def main() -> None:
    for name, make in CASES.items():
        made = {key: np.asarray(value) for key, value in make().items()}
        np.savez_compressed(FOLDER / f"{name}.npz", **made)
        sums = {key: float(np.abs(value).sum()) for key, value in made.items() if value.dtype.kind in "fu"}
        print(name, (FOLDER / f"{name}.npz").stat().st_size, {key: round(value, 4) for key, value in sums.items()})


if __name__ == "__main__":
    main()
