"""The names of the files in the folder of a run, and in that of a sweep."""

CONFIG = "config.yaml"
OVERRIDES = ".hydra/overrides.yaml"
METRICS = "metrics.jsonl"  # see `journal`
TAGS = "tags.json"
RUN_ID = "mlflow_run_id"
NETWORK = "network.json"  # see `description`
CHECKPOINT, CHECKPOINT_BEFORE = "state.safetensors", "state.before.safetensors"
BEST, LAST = "best.safetensors", "last.safetensors"  # weights
RUNNING = ".running"  # see `run_lock`
ERROR = "error.txt"  # the traceback of a run that failed
OUTPUT = "output.txt"  # the output of a point of a sweep, if others run at the same time

COST = "cost.json"  # of an inference
CURVES, CONFUSION, RASTER, HISTOGRAMS = "curves.png", "confusion.png", "raster.png", "weights.png"
RATES, COST_FIGURE = "rates.png", "cost.png"
EVALUATION = "evaluation.json"

SWEEP, POINT = "sweep.json", "point.json"  # in the folder of a sweep, and of each of its points
TUNING = "tune.json"  # in that of a tuning: what was asked for
