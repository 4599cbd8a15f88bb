"""The service's own public address, to which Khoros posts: configured, or learned from a visit on Heroku."""

from __future__ import annotations

import re
from collections.abc import Iterable

import log
from config import Config
from inbox.facts import Facts
from khoros.receive import NOTIFICATIONS_PATH


class PublicAddress:
    """Its methods raise DatabaseUnavailable."""

    def __init__(self, config: Config, facts: Facts) -> None:
        self._config, self._facts = config, facts
        self._ignored: set[str] = set()  # the hosts that were logged

    def learn(self, host: str, *, secure: bool) -> bool:
        """Remembers the host name of a visit to the landing page, unless an address is known. Only on Heroku and AWS
        Lambda, which forward only requests for the app's own names. The first name stays. Returns whether it is
        new."""
        if self._config.public_url or self._config.polling or not (secure and self._may_be_ours(host)):
            return False
        known = self._facts.recall("public_url")
        if known is None:
            self._facts.remember("public_url", f"https://{host}")
            log.info("address_learned", url=f"https://{host}")
        elif known != f"https://{host}" and host not in self._ignored:
            self._ignored.add(host)
            reason = f"the address is {known}; to change it set PUBLIC_URL"
            log.warning("address_ignored", host=host, reason=reason)
        return known is None

    def url(self) -> str:
        """The address, configured or learned; "" when unknown."""
        return self._config.public_url or self._facts.recall("public_url") or ""

    def why_unknown(self) -> str:
        """What to do while the address is unknown."""
        config = self._config
        if not (config.on_dyno or config.on_lambda):
            return "The relay does not know its public address: set PUBLIC_URL."
        own = "…herokuapp.com address" if config.on_dyno else "address at AWS"
        how = f"open its {own} once in a browser, or set PUBLIC_URL to the address that Khoros can call."
        name = config.heroku_app_name
        or_else = f" HEROKU_APP_NAME is {name}: it must be the app's name, or empty." if name and config.on_dyno else ""
        return f"The relay does not know its public address yet: {how}{or_else}"

    def notification_uri(self, used: Iterable[str]) -> str:
        """The address for notifications; "" when unknown. While nobody has opened the app, the first one of those
        `used` until now that this app may have."""
        if address := self.url():
            return address + NOTIFICATIONS_PATH
        for uri in used:
            host = uri.removeprefix("https://").removesuffix(NOTIFICATIONS_PATH)
            if uri == f"https://{host}{NOTIFICATIONS_PATH}" and self._may_be_ours(host):
                return uri
        return ""

    def _may_be_ours(self, host: str) -> bool:
        name, ours = re.escape(self._config.heroku_app_name.lower()) or "[a-z0-9][a-z0-9-]*", ""
        if self._config.on_dyno:
            ours = rf"{name}(-[a-z0-9-]+)?\.herokuapp\.com"
        elif self._config.on_lambda:
            ours = r"[a-z0-9]+\.(lambda-url\.[a-z0-9-]+\.on\.aws|execute-api\.[a-z0-9-]+\.amazonaws\.com)"
        return bool(ours and re.fullmatch(ours, host))
