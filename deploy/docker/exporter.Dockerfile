# gpuheal exporter.   docker build -f deploy/docker/exporter.Dockerfile -t gpuheal-exporter .
#
# On a node it needs:
#   --device /dev/kmsg --cap-add SYSLOG          the kernel log (kernel.dmesg_restrict)
#   -v /:/host:ro  and  --root /host             /proc and /sys of the host, pod-resources socket, log files
#   -v /var/lib/gpuheal:/var/lib/gpuheal         levels, kept over restarts
#   the NVIDIA runtime (NVIDIA_DRIVER_CAPABILITIES=utility) for libnvidia-ml.so.1; without it the kernel log alone serves
#
#   docker run --device /dev/kmsg --cap-add SYSLOG -v /:/host:ro -v /var/lib/gpuheal:/var/lib/gpuheal \
#     -p 127.0.0.1:9845:9845 gpuheal-exporter --root /host --kmsg /dev/kmsg --listen-address 0.0.0.0:9845

ARG PYTHON=docker.io/library/python:3.13-slim
FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE deploy/docker/exporter.lock ./
COPY responder responder
COPY rules rules
COPY exporters exporters
# Four small packages of the project's dependencies, at the versions and with the contents that `make lock` saw.
# Nothing in the image can install. Bytecode is kept of what a start imports: the file system is read-only later, and it
# halves the time of a start; that of modules which nobody imports would only make the image larger.
RUN python -m venv --without-pip /opt/gpuheal \
 && python -m pip --python /opt/gpuheal/bin/python install --no-cache-dir --no-compile --require-hashes -r exporter.lock \
 && python -m pip wheel --no-cache-dir --no-deps -w /dist . \
 && python -m pip --python /opt/gpuheal/bin/python install --no-cache-dir --no-compile --no-deps /dist/*.whl \
 && cd / \
 && /opt/gpuheal/bin/gpuheal exporter --help >/dev/null

FROM ${PYTHON}
LABEL org.opencontainers.image.title="gpuheal-exporter" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="GPU faults of the kernel log and NVML as metrics"
RUN python -m pip uninstall -q -y --root-user-action=ignore pip
COPY --from=build /opt/gpuheal /opt/gpuheal
ENV PATH=/opt/gpuheal/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=utility
# Root inside, with SYSLOG as its only capability: /dev/kmsg, the kubelet's socket and /proc/PID/cgroup belong to root.
USER 0
VOLUME /var/lib/gpuheal
EXPOSE 9845
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9845/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["gpuheal", "exporter"]
CMD ["--listen-address", "0.0.0.0:9845"]
