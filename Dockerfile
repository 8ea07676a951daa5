# The page in a container: docker build -t ipadapter-demo . and, for a GPU, --build-arg VARIANT=cuda
#
# Both variants run the same locked packages. Only torch differs, which PyTorch's own index offers in
# builds for a CPU alone: 3.4 GB of CUDA libraries less. Those wheels are pinned by their versions; all
# others, and the CUDA variant's torch, by their hashes too.
ARG PYTHON=3.11-slim-bookworm
FROM python:${PYTHON} AS packages

ARG VARIANT=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build
COPY locks/demo.txt scripts/install_locked.sh ./
RUN python -m venv /venv && bash install_locked.sh /venv/bin/python demo.txt "${VARIANT}" "${TORCH_INDEX}"

FROM python:${PYTHON}

# The folder of the hub's files is there, so that a volume in its place belongs to the user.
RUN useradd --home-dir /app --uid 1000 demo && install -d -o demo -g demo /app/hub
COPY --from=packages /venv /venv
WORKDIR /app
COPY app.py LICENSE ./
COPY ipadapter_demo ipadapter_demo
COPY assets assets
COPY configs configs
USER 1000
# Weights from the hub and visitors' files: volumes, if they are to stay. No compiler is here, for --compile.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/app/hub \
    MPLCONFIGDIR=/tmp \
    IPADAPTER_HOST=0.0.0.0 \
    IPADAPTER_PORT=7860
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"IPADAPTER_PORT\"]}/', timeout=8)"]
ENTRYPOINT ["python", "app.py"]
