# The gateway in a container. PostgreSQL and Valkey are embedded under /data unless
# SMSGW_DATABASE_URL and SMSGW_REDIS_URL name others.
#
#   docker build -t smsgw .
#   docker run --init --read-only --tmpfs /tmp -v smsgw-data:/data -p 8080:8080 smsgw
#
# /data holds the master key: without it nothing stored can be read. Keep a copy elsewhere.

FROM python:3.13-slim AS build

# Dependencies first: they change less often than the code. Every file is checked by its hash.
WORKDIR /src
COPY requirements.lock deploy/install.sh ./
RUN sh install.sh packages /opt/smsgw

COPY . .
RUN sh deploy/install.sh gateway /opt/smsgw


FROM python:3.13-slim

# The id is fixed so that a volume keeps its owner, and numeric so that Kubernetes can check it.
RUN groupadd --gid 10001 smsgw \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data \
       --shell /usr/sbin/nologin smsgw \
    && install -d -o 10001 -g 10001 -m 0700 /data

COPY --from=build /opt/smsgw /opt/smsgw

# Nothing is written outside /data and /tmp: the root file system may be read-only.
ENV PATH=/opt/smsgw/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/data \
    SMSGW_DATA_DIR=/data \
    SMSGW_HOST=0.0.0.0

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080 8081
STOPSIGNAL SIGTERM

# Alive, not ready: a gateway without a carrier must not be restarted for it. /readyz says more.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('SMSGW_ADMIN_PORT', '8081') + '/healthz', timeout=2)"]

# A stop needs up to 30 s (docker stop --timeout 35): answers are awaited, promises written down.
ENTRYPOINT ["smsgw"]
CMD ["up"]
