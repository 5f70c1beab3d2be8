# A gateway in a container: dependencies by hash from the lock file, a user without rights, data in a volume.
FROM python:3.13.7-slim-trixie

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 --home-dir /var/lib/fieldgate --create-home fieldgate
WORKDIR /opt/fieldgate

COPY requirements/runtime.lock requirements/
RUN pip install --require-hashes -r requirements/runtime.lock

COPY pyproject.toml README.md LICENSE ./
COPY protocols protocols
COPY gateway gateway
COPY devices devices
COPY project project
RUN pip install --no-deps --no-build-isolation .

USER fieldgate
WORKDIR /var/lib/fieldgate
ENV GATEWAY_DATA_DIR=/var/lib/fieldgate/data \
    GATEWAY_LISTENERS__0__BIND=0.0.0.0:8000 \
    GATEWAY_LISTENERS__1__BIND=0.0.0.0:1883 \
    GATEWAY_LOG__FORMAT=json
VOLUME /var/lib/fieldgate
EXPOSE 8000 1883
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
