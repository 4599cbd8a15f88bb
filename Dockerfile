# The relay as a container. Settings come as environment variables; the log goes to stdout. compose.yaml runs it with PostgreSQL.
# Without a DATABASE_URL of yours the inbox is an SQLite file in /data. Keep that folder (-v relay:/data): it holds what is not delivered yet.
# --read-only works: the relay writes to /data and, for gunicorn's small files, to Docker's /dev/shm.
FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 \
    PORT=8000 \
    DATABASE_URL=sqlite:////data/relay.db

RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin relay \
    && install --directory --owner=relay --group=relay --mode=0700 /data

WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir --root-user-action=ignore --disable-pip-version-check -r requirements.txt
COPY . .

USER 10001
EXPOSE 8000
# The image has no curl. http.client asks this container itself, whatever HTTP_PROXY says.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['PORT']), timeout=8); c.request('GET', '/health'); exit(c.getresponse().status != 200)"]
# The exec form, so that SIGTERM reaches gunicorn and it finishes what is in flight.
CMD ["gunicorn", "app:create_app()"]
