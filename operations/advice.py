"""What to do about an error of a client, or about the reason why a gate is closed."""

from __future__ import annotations

import re

GOES_ON = "The relay goes on by itself afterwards."
SET_COMPANY = "Set SPREDFAST_COMPANY_ID to one of these numbers, or add the token's user to the company."
# By the first pattern that is in the reason.
ADVICE = (
    ("refuses this one post", "It is tried again for an hour. To give it up: flask --app app inbox discard ID"),
    ("Developer Inactive", "Sign in to Khoros as the relay's user, get a new access token, set SPREDFAST_API_TOKEN."),
    ("no company of the access token", SET_COMPANY),
    ("not allow this application", "Check SPREDFAST_COMPANY_ID; if it is right, ask Khoros support to enable the "
     "token's client id for that company."),
    ("refuses SPREDFAST_API_TOKEN", "Copy the access token again from the profile settings in Khoros."),
    ("HTTPS_PROXY|REQUESTS_CA_BUNDLE", "Correct that variable, or remove it."),
    ("unusual character", "Set the variable again, without the character."),
    (r"KHOROS_API_URL|Khoros answered 404|a web page instead|Khoros \(.* (no such host|is not usable)",
     "Correct KHOROS_API_URL; normally it is not set at all."),
    (r"ZENDESK_API_URL|no account works|Zendesk \(.* (no such host|is not usable)",
     "Correct ZENDESK_API_URL to the account's own address, like https://acme.zendesk.com; is its plan paid?"),
    (r"SLACK_API_URL|Slack \(.* (no such host|is not usable)", "Correct SLACK_API_URL; normally it is not set at all."),
    ("then send again|Slack answered", GOES_ON),
    ("Zendesk answered 429", "The account's calls of this minute are used up: wait a minute."),
    ("ZENDESK_CLIENT_ID|the OAuth client may not|lacks the scope", "Copy Identifier and Secret again, and see that "
     "the client has the scopes: Zendesk Admin Center > Apps and integrations > APIs > OAuth clients."),
    ("takes us for|their rights", "Check the Zendesk credentials, and that their agent may create, comment on and see "
     "tickets."),
    ("refuses our signature", "Compare WEBHOOK_SECRET here and at the receiver: docs/webhooks.md."),
    ("410 Gone", "Nothing is sent there until then."),
    ("redirects are not followed", "Set the address that it redirects to, when that is the receiver's own."),
    ("ALERT_WEBHOOK_URL answered", "Make a new webhook and set ALERT_WEBHOOK_URL."),
    ("This service .*nothing listens", "Start the service, or correct PUBLIC_URL."),
    ("certificate is not trusted", "Renew the certificate there, or correct the address."),
    (r"ALERT_WEBHOOK_URL \(", "Correct ALERT_WEBHOOK_URL, or see that the webhook can be reached from here."),
    ("cannot be (reached|called)", "Correct the address, or see that what is there can be reached from here."),
    ("", "Try again in a minute; if it stays, look at that service's status page or ask its support."),
)  # fmt: skip


def advice(reason: str) -> str:
    """What to do about an error of a client, or about a gate's reason."""
    return next(to_do for words, to_do in ADVICE if re.search(words, reason))
