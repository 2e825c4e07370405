# snnrun in a container. Written down, not built: no Docker was at hand, so tell us where it fails.
#
#   docker build -t snnrun .
#   docker run --rm -v "$PWD":/work --user "$(id -u):$(id -g)" snnrun train
#   docker run --rm -v "$PWD":/work --user "$(id -u):$(id -g)" --gpus all snnrun train hardware=gpu
#
# Runs go to outputs/ of the folder that is mounted, corpora are looked for in its data/.
FROM python:3.12-slim

COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt "/source[sweep,export,events,gpu]"

# Who runs it may not write beside the installed code, where compiled kernels would lie, nor into a home folder.
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib HOME=/tmp
WORKDIR /work
ENTRYPOINT ["snnrun"]
CMD ["--help"]
