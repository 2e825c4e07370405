"""Commands that train under an outer launcher such as torchrun: rank 0 runs the command, the others follow it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from snnrun.errors import SnnrunError


def led(arguments: Sequence[str], command: Callable[[], int]) -> int:
    """Run the command, or follow the process that does; returns the exit code.

    Raises:
        UsageError: `hardware.wait_minutes` among the arguments is no number.
        SnnrunError: the leader does not come in time.
    """
    if "RANK" not in os.environ:
        return command()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # otherwise it reports every try to reach another process
    from snnrun.run import experiment
    from snnrun.sweep import lifecycle
    from snnrun.train import distributed

    code = distributed.follow(experiment.follow, lifecycle.wait_minutes(arguments))
    if code is not None:
        return code
    try:
        code = command()
    except BaseException as error:
        distributed.dismiss(error.exit_code if isinstance(error, SnnrunError) else SnnrunError.exit_code)
        raise
    return distributed.dismiss(code)
