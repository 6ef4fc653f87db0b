"""Why a message ended, waits or came back: one table of dotted codes.

Tenants see the code (`reason`), the store keeps its number, people read the text. The carrier's
own word stands beside it and is never replaced. The table is append only: a number, once used,
keeps its code; a code, once shown, keeps its meaning.

`is_retryable` says whether the tenant may send the same text to the same number again later with
a fair chance. `cause` is the class of RELIABILITY section 6 where a carrier's answer or report is
the source: number and content are final, channel, config and network mean another channel.

Codes of requests that were refused before the 202 (problem documents) stand here only where the
same word may also end an accepted message.
"""

from __future__ import annotations

from dataclasses import dataclass

from sms.outcomes import Cause


@dataclass(frozen=True, slots=True)
class Reason:
    """One row: what the store writes, what a person reads, what a tenant may do."""

    number: int
    code: str
    text: str
    is_retryable: bool
    cause: Cause | None = None


_YES, _NO = True, False
_NUMBER, _CONTENT, _CHANNEL = Cause.NUMBER, Cause.CONTENT, Cause.CHANNEL
_CONFIG, _NETWORK, _UNKNOWN = Cause.CONFIG, Cause.NETWORK, Cause.UNKNOWN

REASONS: tuple[Reason, ...] = (
    # The recipient
    Reason(1, "recipient.invalid", "The number does not exist or cannot get texts.", _NO, _NUMBER),
    Reason(2, "recipient.absent", "The phone was off, full or out of reach.", _YES, _NUMBER),
    Reason(3, "recipient.blocked", "The number is on a blacklist or opted out.", _NO, _NUMBER),
    Reason(4, "recipient.ported", "The number lives with another carrier.", _YES, _NETWORK),
    Reason(5, "recipient.country_not_allowed", "The tenant may not send to this country.", _NO),
    # The text
    Reason(10, "content.blocked", "The carrier refused the text.", _NO, _CONTENT),
    Reason(11, "content.not_gsm7", "The text has characters that GSM-7 does not have.", _NO),
    Reason(12, "content.too_long", "The text takes more segments than allowed.", _NO),
    Reason(13, "content.empty", "There is no text.", _NO),
    Reason(14, "content.signature", "The carrier does not know the signature.", _NO, _CONTENT),
    Reason(15, "content.template", "The carrier does not know the template.", _NO, _CONTENT),
    Reason(16, "signature.unknown", "The brand is not filed for the tenant.", _NO),
    Reason(17, "signature.required", "A mainland text needs a brand.", _NO),
    Reason(18, "content.signature_in_text", "The text holds a signature of its own.", _NO),
    # What the carrier said
    Reason(30, "carrier.rejected", "The carrier refused the message.", _NO, _CONTENT),
    Reason(31, "carrier.blocked", "The carrier refused it for good.", _NO, _CONTENT),
    Reason(32, "carrier.undelivered", "The carrier could not deliver it.", _YES, _NUMBER),
    Reason(33, "carrier.expired", "The carrier gave up when its time was over.", _YES, _NUMBER),
    Reason(34, "carrier.deleted", "The carrier removed it.", _NO, _NUMBER),
    Reason(35, "carrier.frequency_cap", "The carrier's cap per number is reached.", _YES, _NUMBER),
    Reason(36, "carrier.throttled", "The carrier was too busy.", _YES, _CHANNEL),
    Reason(37, "carrier.system_error", "The carrier's system failed.", _YES, _CHANNEL),
    Reason(38, "carrier.unknown_outcome", "The carrier does not know how it ended.", _NO),
    Reason(39, "carrier.unknown_code", "A code that nobody has mapped yet.", _NO, _UNKNOWN),
    # The channel
    Reason(50, "channel.rejected", "The channel refused the submit.", _YES, _CONFIG),
    Reason(51, "channel.misconfigured", "Account, sender or format is wrong.", _NO, _CONFIG),
    Reason(52, "channel.account", "Account, balance or permission is missing.", _YES, _CONFIG),
    Reason(60, "channel.permission", "The account may not send to there, or this.", _YES, _CONFIG),
    Reason(53, "channel.error", "The channel had a fault.", _YES, _CHANNEL),
    Reason(54, "channel.timeout", "The channel did not answer in time.", _NO),
    Reason(55, "channel.link_lost", "The connection broke before the answer.", _NO),
    Reason(56, "channel.unavailable", "No channel of the route can take it.", _YES, _CHANNEL),
    Reason(57, "channel.removed", "The channel was taken out of the configuration.", _YES),
    Reason(58, "channel.not_connected", "The channel had no session.", _YES),
    Reason(59, "channel.window_full", "The channel had no free place in its window.", _YES),
    # Our side
    Reason(70, "submit.timeout", "The answer to the submit did not come in time.", _NO),
    Reason(71, "process.lost", "The process ended before the answer came.", _NO),
    Reason(72, "segment.uncertain", "The answer for some of its segments was lost.", _NO),
    Reason(73, "uncertain.resend", "No answer came: one marked second copy.", _NO),
    Reason(74, "evidence.none", "No evidence of the end came before the deadline.", _NO),
    Reason(75, "evidence.not_accepted", "Asked, the carrier says it never took it.", _YES),
    Reason(76, "validity.expired", "Its time was over before it could be sent.", _YES),
    Reason(77, "attempts.used_up", "Every allowed attempt was made.", _YES),
    Reason(78, "route.missing", "No route leads to this number.", _YES),
    Reason(79, "internal.quarantined", "It failed inside the gateway; operators know.", _YES),
    Reason(80, "internal.error", "The gateway made an error.", _YES),
    Reason(81, "uncertain.operator", "No answer came: an operator sent a marked copy.", _NO),
    Reason(82, "store.restored", "The store was put back in time: it may have been sent.", _NO),
    # Policy and people
    Reason(90, "policy.frequency_cap", "The cap per number is reached.", _YES),
    Reason(91, "policy.quiet_hours", "Outside the hours of its class.", _YES),
    Reason(92, "policy.opted_out", "The recipient opted out.", _NO),
    Reason(93, "policy.suppressed", "The number is on a suppression list.", _NO),
    Reason(94, "policy.fuse", "A fuse stopped the campaign.", _YES),
    Reason(95, "policy.consent_missing", "Marketing needs consent.", _NO),
    Reason(96, "policy.word_list", "The text has a forbidden word.", _NO),
    Reason(97, "tenant.suspended", "The tenant is suspended.", _YES),
    Reason(98, "canceled.by_tenant", "The tenant canceled it.", _NO),
    Reason(99, "canceled.by_operator", "An operator canceled it.", _NO),
)

BY_CODE: dict[str, Reason] = {reason.code: reason for reason in REASONS}
SMALLINT_BY_CODE: dict[str, int] = {reason.code: reason.number for reason in REASONS}
CODE_BY_SMALLINT: dict[int, str] = {reason.number: reason.code for reason in REASONS}


def is_retryable(code: str) -> bool:
    """Whether sending again later may help; False for a code that is not in the table."""
    reason = BY_CODE.get(code)
    return reason is not None and reason.is_retryable


def text_of(code: str) -> str:
    """The code in words for a person; the code itself when it is not in the table."""
    reason = BY_CODE.get(code)
    return reason.text if reason is not None else code
