# gpuheal responder.   docker build -f deploy/docker/responder.Dockerfile -t gpuheal:0.1.0 .

ARG PYTHON=docker.io/library/python:3.13-slim
FROM ${PYTHON} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE deploy/docker/responder.lock ./
COPY responder responder
COPY rules rules
COPY exporters exporters
COPY dashboards dashboards
# Nothing in the image can install. Bytecode is kept of what a start imports: the file system is read-only later, and it
# halves the time of a start; that of modules which nobody imports would only make the image larger.
RUN python -m venv --without-pip /opt/gpuheal \
 && python -m pip --python /opt/gpuheal/bin/python install --no-cache-dir --no-compile --require-hashes -r responder.lock \
 && python -m pip wheel --no-cache-dir --no-deps -w /dist . \
 && python -m pip --python /opt/gpuheal/bin/python install --no-cache-dir --no-compile --no-deps /dist/*.whl \
 && cd / \
 && /opt/gpuheal/bin/python -c "import gpuheal_responder.app, gpuheal_responder.shell.build" \
 && /opt/gpuheal/bin/gpuheal serve --help >/dev/null

FROM ${PYTHON}
LABEL org.opencontainers.image.title="gpuheal" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="GPU fault self-healing for Kubernetes with Prometheus and Alertmanager"
RUN python -m pip uninstall -q -y --root-user-action=ignore pip
COPY --from=build /opt/gpuheal /opt/gpuheal
ENV PATH=/opt/gpuheal/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
EXPOSE 9940
STOPSIGNAL SIGTERM
ENTRYPOINT ["gpuheal"]
CMD ["serve", "--config", "/etc/gpuheal/settings.yaml"]
