"""nginx and Caddy on this machine, with the configurations in hosting/, and senders that go through them."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from sandbox.relay import ROOT, free_port

NAMES = ("nginx", "caddy")
HOST = "localhost"  # in place of the host name in the configurations
UPSTREAM = {"nginx": "server 127.0.0.1:8000;", "caddy": "reverse_proxy 127.0.0.1:8000"}
SENDER = "127.0.0.7"  # the address that the log must show
PATIENCE_S = 60.0


class Proxy:
    """nginx or Caddy before the relays at these ports of 127.0.0.1, with its shipped configuration, in which only
    names, ports and certificate are changed. Raises RuntimeError when a configuration cannot be used."""

    def __init__(self, name: str, folder: Path, ports: Sequence[int]) -> None:
        self.name, self.ports, self._folder = name, list(ports), folder
        self.port, self.http_port, self._admin_port = free_port(), free_port(), free_port()
        self.url, self.certificate = f"https://{HOST}:{self.port}", folder / "certificate.pem"
        self._key = folder / "key.pem"
        folder.chmod(0o755)  # nginx keeps a large body in a file, as another user
        new_key = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days=2",
        ]
        named = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", str(self._key)]
        command = [*new_key, *named, "-out", str(self.certificate)]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command
        self._config = folder / f"{name}.conf"
        self._write()
        command = {
            "nginx": ["nginx", "-p", str(folder), "-c", str(self._config), "-g", "daemon off;"],
            "caddy": ["caddy", "run", "--adapter", "caddyfile", "--config", str(self._config)],
        }[name]
        home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self._env = {**os.environ, **home, "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        self._log = (folder / f"{name}.log").open("ab")
        self._process = subprocess.Popen(command, env=self._env, stdout=self._log, stderr=self._log)  # noqa: S603 - nginx or Caddy

    def lead_to(self, *ports: int) -> None:
        """Changes the relays behind it, without a restart: writes the configuration and reloads it."""
        self.ports = list(ports)
        self.reload()

    def reload(self) -> None:
        self._write()
        if self.name == "nginx":
            self._process.send_signal(signal.SIGHUP)
        else:
            again = ["caddy", "reload", "--force", "--adapter", "caddyfile", "--config", str(self._config)]
            again += ["--address", f"127.0.0.1:{self._admin_port}"]
            done = subprocess.run(again, env=self._env, capture_output=True, text=True)  # noqa: S603, S607
            if done.returncode:
                raise RuntimeError(f"caddy reload failed: {done.stderr}")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _write(self) -> None:
        """The shipped configuration, in which each of these must be found."""
        text = (ROOT / "hosting" / {"nginx": "nginx.conf", "caddy": "Caddyfile"}[self.name]).read_text("utf-8")
        addresses = [f"127.0.0.1:{port}" for port in self.ports]
        if self.name == "nginx":
            changes = {
                UPSTREAM["nginx"]: " ".join(f"server {address};" for address in addresses),
                "listen 80;": f"listen 127.0.0.1:{self.http_port};",
                "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
                "/etc/letsencrypt/live/relay.example.com/fullchain.pem": str(self.certificate),
                "/etc/letsencrypt/live/relay.example.com/privkey.pem": str(self._key),
            }
            around = "pid {0}/nginx.pid;\nerror_log {0}/error.log;\nevents {{}}\nhttp {{\naccess_log {0}/access.log;\n"
            temporary = [f"{kind}_temp_path {self._folder}/{kind};\n" for kind in ("client_body", "proxy")]
            before, after = around.format(self._folder) + "".join(temporary), "}\n"
        else:
            certificate = f"relay.example.com:{self.port} {{\n\ttls {self.certificate} {self._key}"
            changes = {
                UPSTREAM["caddy"]: f"reverse_proxy {' '.join(addresses)}",
                "relay.example.com {": certificate,
            }
            ports = f"http_port {self.http_port}\nhttps_port {self.port}\nadmin 127.0.0.1:{self._admin_port}"
            before, after = f"{{\n{ports}\n}}\n", ""
        for old, new in changes.items():
            if old not in text:
                raise RuntimeError(f"hosting/ for {self.name} has no {old!r}")
            text = text.replace(old, new)
        self._config.write_text(before + text.replace("relay.example.com", HOST) + after, "utf-8")


def notification(company_id: int, event: str, post: str, label: str, text: str = "Hello") -> bytes:
    """A label on a post, as Khoros sends it."""
    item = {"sfEntityType": "StreamItem", "entityId": post, "text": text, "author": "Jo", "labels": []}
    names = {"companyId": company_id, "eventName": "stream-item-label-applied", "eventUuid": event, "type": "hydrated"}
    return json.dumps({**names, "data": {"labels": [label], "items": [item]}}).encode()


class Sender:
    """Sends to the relay through a proxy, from SENDER's address, and checks the certificate."""

    def __init__(self, proxy: Proxy, token: str) -> None:
        self.port, self._token = proxy.port, token
        self.context = ssl.create_default_context(cafile=str(proxy.certificate))

    def connect(self) -> HTTPSConnection:
        return HTTPSConnection(HOST, self.port, timeout=PATIENCE_S, source_address=(SENDER, 0), context=self.context)

    def push(self, body: Any, headers: Mapping[str, str] | None = None, path: str = "/notifications") -> int:
        """The status of the answer to a notification over a connection of its own. Raises OSError and HTTPException."""
        status, _, _ = self.ask("POST", path, body, {"Authorization": f"Bearer {self._token}", **(headers or {})})
        return status

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self.connect()
        try:
            chunks = "Transfer-Encoding" in (headers or {})
            connection.request(method, path, body, dict(headers or {}), encode_chunked=chunks)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


class Stream:
    """Labels a new post again and again, at a steady rate, until the `with` block ends, each once, as Khoros does.
    `outcomes` has the status or the error of each notification, by post."""

    def __init__(self, sender: Sender, company_id: int, label: str, per_second: float = 40, threads: int = 4) -> None:
        self.outcomes: dict[str, int | str] = {}
        self.slowest_s = 0.0
        self._sender, self._company_id, self._label = sender, company_id, label
        self._pause_s, self._ended = threads / per_second, threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self) -> None:
        while not self._ended.wait(self._pause_s):
            post, began_at = f"twitter:{uuid.uuid4().int % 10**15:015}", time.monotonic()
            try:
                outcome: int | str = self._sender.push(
                    notification(self._company_id, str(uuid.uuid4()), post, self._label)
                )
            except (OSError, HTTPException) as error:
                outcome = type(error).__name__
            self.outcomes[post] = outcome
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_at)


def judge(outcomes: Mapping[str, int | str], tickets: Counter[str]) -> tuple[str, bool]:
    """What became of the posts in words, and whether each was acknowledged and has one ticket."""
    lost = sum(tickets[post] == 0 for post in outcomes)
    twice = sum(tickets[post] > 1 for post in outcomes)
    refused = Counter(outcome for outcome in outcomes.values() if outcome != 202)
    words = (
        f"{len(outcomes)} labels, {refused.total()} not acknowledged {dict(refused) or ''}, {lost} lost, {twice} twice"
    )
    return words, bool(outcomes) and not (lost or twice or refused)
