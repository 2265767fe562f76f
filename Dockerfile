# diffusion_lab in a container. On a CPU:
#   docker build -t diffusion-lab . && docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" diffusion-lab train
# On a GPU (the machine needs NVIDIA's driver and container toolkit; pip's PyTorch for Linux brings the libraries of CUDA):
#   docker run --rm --gpus all --shm-size 2g … diffusion-lab train
FROM python:3.12-slim

# Options of pip for PyTorch, such as an --index-url with its smaller builds for CPUs, or for another version of CUDA.
ARG TORCH_OPTIONS=
# Extras of pyproject.toml, such as [demo,mlflow].
ARG EXTRAS=

RUN pip install --no-cache-dir torch torchvision ${TORCH_OPTIONS}
COPY pyproject.toml README.md LICENSE /src/
COPY diffusion_lab /src/diffusion_lab
COPY hydra_plugins /src/hydra_plugins
COPY conf /src/conf
RUN pip install --no-cache-dir "/src${EXTRAS}" && rm -rf /src

# Data, results and your own conf/ lie in the folder that is mounted here. Any --user may write its caches.
RUN useradd --create-home lab && mkdir /work && chown lab /work && chmod 1777 /home/lab
ENV HOME=/home/lab
USER lab
WORKDIR /work
ENTRYPOINT ["diffusion-lab"]
CMD ["--help"]
