# Two stages: the first builds and installs, the second has no compiler and no pip cache.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY sql sql
COPY migrations migrations
RUN python -m venv /holdfast && /holdfast/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /holdfast /holdfast
# A bare uid has no name; yoyo records one for each migration.
ENV PATH=/holdfast/bin:$PATH USER=holdfast HOST=0.0.0.0 PORT=8000
USER 10001:10001
EXPOSE 8000
# The slim image has no curl. A status of 503 is an error to urlopen, too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health')"]
# `migrate` in the place of `serve`, on the same DATABASE_URL, is the step before a new version.
ENTRYPOINT ["holdfast"]
CMD ["serve"]
