# Two stages: the first builds the package; the second has no build files and no pip cache.
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY service service
COPY sql sql
COPY migrations migrations
RUN python -m venv /holdfast && /holdfast/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /holdfast /holdfast
# The uid has no user name, and yoyo records a name for each migration.
ENV PATH=/holdfast/bin:$PATH USER=holdfast HOST=0.0.0.0 PORT=8000
USER 10001:10001
EXPOSE 8000
# The slim image has no curl. urlopen raises an error for the status 503, too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health')"]
# Before an upgrade, run the new image with `migrate` instead of `serve` on the same DATABASE_URL.
ENTRYPOINT ["holdfast"]
CMD ["serve"]
