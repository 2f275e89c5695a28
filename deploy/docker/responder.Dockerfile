# gpuheal responder.   docker build -f deploy/docker/responder.Dockerfile -t gpuheal:0.1.0 .

ARG PYTHON=docker.io/library/python:3.13-slim
FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE deploy/docker/responder.lock ./
COPY responder responder
COPY rules rules
COPY exporters exporters
RUN python -m venv /opt/gpuheal \
 && /opt/gpuheal/bin/pip install --no-cache-dir --require-hashes -r responder.lock \
 && /opt/gpuheal/bin/pip install --no-cache-dir --no-deps . \
 && /opt/gpuheal/bin/gpuheal serve --help >/dev/null

FROM ${PYTHON}
LABEL org.opencontainers.image.title="gpuheal" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="GPU fault self-healing for Kubernetes with Prometheus and Alertmanager"
COPY --from=build /opt/gpuheal /opt/gpuheal
ENV PATH=/opt/gpuheal/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 9940
STOPSIGNAL SIGTERM
ENTRYPOINT ["gpuheal"]
CMD ["serve", "--config", "/etc/gpuheal/settings.yaml"]
