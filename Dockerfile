# Two stages: build once with everything, run with what serving needs. The embedding model is exported and
# quantised at build time, so a container is ready in seconds and needs no network.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH
# The CPU build: the default index serves a CUDA build of several gigabytes.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0"
WORKDIR /src
COPY pyproject.toml README.md ./
COPY gateway gateway
COPY policies policies
RUN pip install --no-cache-dir ".[bundled,redis,encryption,otel,console]"
RUN semantic-gateway bake --cache /opt/model
# The exported model runs on ONNX Runtime alone; torch was needed to export it.
RUN pip uninstall -y torch sentence-transformers transformers scikit-learn scipy sympy networkx

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin gateway \
    && install -d -o gateway -g gateway /data
COPY --from=build /opt/gateway /opt/gateway
COPY --from=build /opt/model /opt/model
COPY deploy/gateway.yaml /etc/gateway/gateway.yaml
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=40s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
ENTRYPOINT ["semantic-gateway"]
CMD ["serve", "--config", "/etc/gateway/gateway.yaml"]
