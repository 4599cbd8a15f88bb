"""One Slack channel or person: a message about each post, and a reply in its thread when the post comes again.

https://docs.slack.dev/reference/methods/chat.postMessage
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from config import Reader, as_https_url, as_secret
from destinations.destination import Destination, Digest, Sent
from destinations.slack_words import NAMED, content, digest_content
from events import Subject, as_object, read_text
from inbox.items import Draft, Item
from outbound import Answer, AuthFailed, Bearer, Limited, Rejected, ServiceError, Unavailable, new_session, send

JSON = {"Content-Type": "application/json; charset=utf-8"}
PLAIN = {"mrkdwn": False, "parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}
SLACK_VARIABLES = {
    "SLACK_BOT_TOKEN": "api.slack.com/apps > your app > OAuth & Permissions: Bot User OAuth Token (xoxb-…), with the "
    "scopes chat:write, chat:write.public, users:read and users:read.email",
    "SLACK_API_URL": "Normally it is not set: then it is https://slack.com/api",
}
_OTHERS = {"xoxp": "a user token", "xapp": "an app-level token", "xoxe": "a token that expires", "http": "an address"}
# What an answer means, by its status and Slack's error code, and what to do about it: the first line that fits.
_MEANINGS: tuple[tuple[str, type[ServiceError], str], ...] = (
    ("429 .*|.* rate_?limited|.* message_limit_exceeded", Limited, "it takes no more for now"),
    ("5.. .*|.* (service_unavailable|.*_error|request_timeout|team_added_to_org)", Unavailable, "it does not work now"),
    ("[0-9]+ ", Unavailable, "this is not Slack's API; check SLACK_API_URL"),
    (".* (not_authed|invalid_auth|account_inactive|token_.*|not_allowed_token_type)", AuthFailed,
     "install the app again and copy its Bot User OAuth Token (xoxb-…) into SLACK_BOT_TOKEN"),
    (".* (missing_scope|no_permission)", AuthFailed, "add the scope {scope} and install the app again"),
    (".* not_in_channel", AuthFailed, "invite the app to {place}: /invite {bot}"),
    (".* channel_not_found", AuthFailed, "there is no {place}; correct ROUTES, or in a private channel: /invite {bot}"),
    (".* is_archived", AuthFailed, "{place} is archived: unarchive it, or name another channel in ROUTES"),
    (".* users?_not_found", AuthFailed, "no member of the workspace is {place}: correct ROUTES"),
    (".* messages_tab_disabled", AuthFailed, "switch on the Messages Tab: api.slack.com/apps > your app > App Home"),
    (".* (restricted_action.*|.*access.*|org_login_required)", AuthFailed, "ask an admin to allow the app in {place}"),
    (".*", Rejected, "it refuses this message"),
)  # fmt: skip
_ALREADY_THERE = ("duplicate_message_not_found", "duplicate_channel_not_found")
# The thread takes no reply, or its channel or person is gone: another one may have that name or address now.
_is_no_thread = re.compile(
    "(thread|message|channel|users?)_not_found|cannot_reply_.*|restricted_action.*|is_archived|not_in_channel|.*_disabled"
).fullmatch


@dataclass(frozen=True)
class SlackSettings:
    """The app that posts. Its token is left out of repr."""

    bot_token: str = field(repr=False)
    api_url: str = "https://slack.com/api"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log may show."""
        return (self.bot_token,)

    @classmethod
    def read(cls, read: Reader) -> SlackSettings:
        """The settings in the environment; `read` keeps the faults."""
        api_url = read("SLACK_API_URL", as_https_url, cls.api_url)
        return cls(read("SLACK_BOT_TOKEN", _bot_token, "", required=True), api_url)


class SlackDestination(Destination):
    """See destinations/destination.py for what its methods promise. `target` is #name, the id of a channel or a
    person, or a person's e-mail address. A reference is the channel's id and the `ts` of a thread's first message."""

    noun, parallel, pace_s = "message", 1, 1.1  # Slack takes one a second

    def __init__(self, settings: SlackSettings, target: str, name: str) -> None:
        self.name, self.title, self.digest = name, f"Slack {target}", Digest(NAMED, self._send_digest)
        self._settings, self._target, self._session = settings, target, new_session(settings.api_url)
        self._channel = target if "@" not in target else ""  # a person's id is looked up
        self._bot, self._workspace = "@your-app", ""
        self._refusal: AuthFailed | None = None

    def compose(self, item: Item) -> Draft:
        """A message, or a reply in the thread of the post's first one."""
        thread, subject = item.latest_reference or "", Subject.parse(item.payload)
        if not thread:
            return Draft("message", _body(content(subject), item))
        reply = {**content(subject, again=True), "thread_ts": thread.partition("/")[2]}
        return Draft("reply", _body(reply, item), target=thread)

    def send(self, item: Item, refreeze: Callable[[Draft], Item]) -> Sent:
        """Posts the message; when the thread of a reply takes none, a message of its own."""
        draft = item.draft or self.compose(item)
        try:
            return self._post(f"{draft.kind}_posted", draft.body, draft.target or "")
        except ServiceError as error:
            if not draft.target or not _is_no_thread(error.code or ""):
                raise
        refreeze(fresh := self.compose(replace(item, latest_reference=None)))
        return self._post("message_posted", fresh.body)

    def check(self) -> str:
        """Whether Slack knows the app, and the person. No call asks whether the app may post to a channel: the last
        message's refusal stands for it, once."""
        refusal, self._refusal = self._refusal, None
        if refusal:
            raise refusal
        said = self._call("POST", "auth.test")
        self._bot, self._workspace = f"@{read_text(said.get('user'))}", read_text(said.get("url"))
        self._find_channel()
        return f"the app {self._bot} in the workspace {read_text(said.get('team'))}"

    def link(self, reference: str) -> str | None:
        """The message's permalink, once `check` has asked for the workspace's address."""
        channel, _, ts = reference.partition("/")
        return f"{self._workspace}archives/{channel}/p{ts.replace('.', '')}" if ts and self._workspace else None

    def _send_digest(self, items: Sequence[Item]) -> Sent:
        said = digest_content([Subject.parse(item.payload) for item in items])
        return self._post("digest_posted", _body(said, *items))

    def _post(self, how: str, body: bytes, thread: str = "") -> Sent:
        try:
            channel = thread.partition("/")[0] or self._channel or self._find_channel()
            data = json.dumps({"channel": channel, **json.loads(body)})
            said = self._call("POST", "chat.postMessage", data=data, headers=JSON)
        except ServiceError as error:
            if error.code in _ALREADY_THERE:
                return Sent("already_posted", thread, error.status, error.request_id)
            self._refusal = error if isinstance(error, AuthFailed) else None
            if error.code in ("user_not_found", "channel_not_found") and "@" in self._target:
                self._channel = ""
            raise
        self._refusal = None
        return Sent(how, thread or f"{read_text(said.get('channel'))}/{read_text(said.get('ts'))}", 200)

    def _find_channel(self) -> str:
        """Where to post. A person's id is used until Slack no longer knows it."""
        if "@" in self._target:
            said = self._call("GET", "users.lookupByEmail", params={"email": self._target})
            self._channel = read_text(as_object(said.get("user")).get("id"))
        return self._channel

    def _call(self, verb: str, method: str, **parts: Any) -> dict[str, Any]:
        url, auth = f"{self._settings.api_url}/{method}", Bearer(self._settings.bot_token)
        answer = send(self._session, verb, url, auth=auth, service="Slack", **parts)
        said = as_object(answer.json())
        if answer.status == 200 and said.get("ok") is True:
            return said
        raise _error(answer, said, {"place": self._target, "bot": self._bot})


def _error(answer: Answer, said: Mapping[str, Any], names: Mapping[str, str]) -> ServiceError:
    """What a bad answer means. Only words of Slack's own kind get into the message: another one may quote anything."""
    code = found[0] if (found := re.fullmatch("(?!xox)[A-Za-z0-9_.-]{1,80}", read_text(said.get("error")))) else ""
    scope = re.sub("[^a-z:.,]", "", read_text(said.get("needed"))) or "chat:write"
    _, kind, advice = next(line for line in _MEANINGS if re.fullmatch(line[0], f"{answer.status} {code}"))
    words = f"Slack answered {code or answer.status}: {advice.format(scope=scope, **names)}"
    call, wait_s = answer.headers.get("x-slack-req-id", "")[:200] or None, answer.retry_after_s
    return kind(words, status=answer.status, code=code or None, request_id=call, retry_after_s=wait_s)


def _body(said: Mapping[str, Any], *items: Item) -> bytes:
    """The same items always give the same client_msg_id, even after the database was lost."""
    names = [f"{item.destination}\n{item.event_uuid}\n{item.subject_id}" for item in items]
    return json.dumps({**PLAIN, **said, "client_msg_id": str(uuid5(NAMESPACE_OID, "\n".join(names)))}).encode("ascii")


def _bot_token(value: str) -> str:
    value = as_secret(value)
    if not value.startswith("xoxb-"):
        raise ValueError(f"is {_OTHERS.get(value[:4], 'another thing')}, not a Bot User OAuth Token (xoxb-…)")
    return value
