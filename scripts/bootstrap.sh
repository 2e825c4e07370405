# Sourced by `run` and `test`: makes .venv from the pinned versions, once, and again when a pin changes.
# usage: bootstrap EXTRAS, where EXTRAS is empty or a list such as [dev]

bootstrap() {
    local extras=$1 python candidate wanted
    local venv=$root/.venv
    wanted=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)
    # One stamp for what `run` needs and one for `test`, which needs that and more.
    local stamp=$venv/.installed-${extras//[^a-z]/} found
    for found in "$stamp" "$venv/.installed-dev"; do
        if [ -f "$found" ] && [ "$(cat "$found")" = "$wanted" ]; then
            return
        fi
    done
    if [ ! -x "$venv/bin/python" ]; then
        for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
            if command -v "$candidate" >/dev/null &&
                "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
                python=$candidate
                break
            fi
        done
        if [ -z "${python:-}" ]; then
            echo "snnrun needs Python 3.11, 3.12 or 3.13; set PYTHON to one of them." >&2
            exit 1
        fi
        echo "Making $venv with $($python --version), once ..." >&2
        rm -rf "$venv"
        "$python" -m venv "$venv" || {
            echo "Could not make $venv. On Debian and Ubuntu the package python3-venv is needed." >&2
            exit 1
        }
    fi
    echo "Installing the pinned packages (a few minutes the first time) ..." >&2
    if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --constraint "$root/constraints.txt" --editable "$root$extras" >"$venv/install.log" 2>&1; then
        tail -n 20 "$venv/install.log" >&2
        echo "The installation failed; all of its output is in $venv/install.log." >&2
        exit 1
    fi
    echo "$wanted" >"$stamp"
}
