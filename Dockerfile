# One image for both uses.
#
# The lab, both controllers in one container, on loopback addresses (hence the host's network, to reach them):
#     docker run --rm -it --init --network host middlewared
# One controller, with its settings, its state kept, and its API on the host's network:
#     docker run -d --init --network host -v /etc/middlewared:/etc/middlewared:ro -v middlewared:/var/lib/middlewared \
#         middlewared --config /etc/middlewared/middlewared.toml
# A controller with real disks needs those devices (--device) and --cap-add SYS_RAWIO --user root besides.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev pkg-config libsystemd-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python -m venv /opt/middlewared \
 && /opt/middlewared/bin/pip install --no-cache-dir --constraint constraints.txt ".[systemd]"

FROM python:3.11-slim-bookworm
RUN useradd --system --home-dir /var/lib/middlewared --create-home middlewared \
 && install -d -o middlewared -g middlewared /run/middleware /run/middlewared
COPY --from=build /opt/middlewared /opt/middlewared
ENV PATH=/opt/middlewared/bin:$PATH PYTHONUNBUFFERED=1
USER middlewared
WORKDIR /var/lib/middlewared
VOLUME /var/lib/middlewared
ENTRYPOINT ["middlewared"]
CMD ["lab", "up"]
