# The project as one image. Its command is the web server; compose.yaml has those of worker and beat.

FROM python:3.11-slim-bookworm AS build
COPY requirements.txt /
# What only tests and checks need comes last in that file, and stays out.
RUN python -m venv /venv \
    && sed '/^# Tests$/,$d' /requirements.txt > /needed.txt \
    && /venv/bin/pip install --no-cache-dir --requirement /needed.txt

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --home-dir /data --create-home --shell /usr/sbin/nologin bots
WORKDIR /srv
COPY --from=build /venv /venv
COPY manage.py ./
COPY templates templates
COPY project project
COPY botsessions botsessions
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VAR_DIR=/data
USER bots
VOLUME /data
EXPOSE 8000
CMD ["python", "-m", "uvicorn", "--host", "0.0.0.0", "--port", "8000", \
     "--http", "httptools", "--loop", "uvloop", "--ws", "none", "--no-access-log", "--log-level", "warning", \
     "--no-server-header", "--no-proxy-headers", "--timeout-graceful-shutdown", "5", "project.asgi:application"]
