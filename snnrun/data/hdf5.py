"""Files of HDF5, opened with a message for all that can be wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snnrun.errors import SnnrunError


def opened(path: Path, corpus: str, published: str) -> Any:
    """The file, as h5py has it, to read from.

    Args:
        path: Where it is.
        corpus: That it belongs to, for messages.
        published: What tells the published file, or where to get it, likewise.

    Raises:
        SnnrunError: If h5py is not installed, or the file cannot be read.
    """
    try:
        import h5py
    except ImportError:
        raise SnnrunError(
            f"data={corpus}: an HDF5 file is read by h5py. Install it: pip install 'snnrun[events]'"
        ) from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = str(error)
        if "truncated" in reason:
            what = "it is cut short; get it anew"
        elif "signature" in reason:
            what = "it is no HDF5 file; replace it by the published one"
        elif error.errno:
            what = f"it cannot be read ({error.strerror or reason}); check its permissions"
        else:
            what = f"it is damaged ({reason}); get it anew"
        raise SnnrunError(f"{path}: {what} ({published})") from None
