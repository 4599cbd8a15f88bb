# The relay as a container. Settings come as environment variables (.env.example lists them); the log goes to stdout.
#   docker build -t khoros-zendesk-relay .
#   docker run --env-file .env -e DATABASE_URL=postgres://USER:PASSWORD@HOST/NAME -p 8000:8000 --stop-timeout 30 khoros-zendesk-relay
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
# The exec form, so that SIGTERM reaches gunicorn and it finishes what is in flight.
CMD ["gunicorn", "app:create_app()"]
