"""Every exception of the gateway.

What is expected is a value (`sms.outcomes`); what is not is one of these:

    GatewayError
    ├── LocalProtocolError   we broke the protocol: our bug. Log, alarm, close the session
    ├── RemoteProtocolError  the peer broke it. Close the session, health down, no alarm
    ├── ChannelError         ConnectFailed, LoginRefused, ChannelClosed, CannotSend
    ├── CallRefused          a vendor's callback that is not the vendor's, or cannot be read
    ├── Unavailable          StoreUnavailable, ClusterUnavailable → 503 with Retry-After
    ├── OutcomeUnknown       connection lost in COMMIT: the message may exist
    ├── NotFirst             KeyTaken, RefsTaken, KeyBusy: another request came first
    ├── LeaseLost            another process owns our messages now: stop writing
    └── ConfigError          at start or apply; names the setting and the remedy; exit code 2
"""


class GatewayError(Exception):
    """The root: `except GatewayError` catches everything of ours and nothing else."""


class LocalProtocolError(GatewayError):
    """We broke the protocol: a bug of ours."""


class RemoteProtocolError(GatewayError):
    """The peer broke the protocol: its session is closed, the process goes on."""


class ChannelError(GatewayError):
    """A channel could not be used."""


class ConnectFailed(ChannelError):
    """The socket could not be opened."""


class LoginRefused(ChannelError):
    """The carrier refused the bind; the text holds its code."""


class ChannelClosed(ChannelError):
    """The session ended."""


class CannotSend(ChannelError):
    """A submit that cannot be put into a request of its vendor; nothing left us.

    `code` is shown as the carrier's word, `reason` is of `sms.reasons`. With `is_channel` another
    channel may take it; without, the text is at fault.
    """

    def __init__(self, code: str, reason: str, *, is_channel: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason
        self.is_channel = is_channel


class CallRefused(GatewayError):
    """A call of a vendor's callback that is refused; `status` is 400, 401 or 403.

    `detail` is shown to the caller and in the log: it names what is wrong and echoes nothing.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Unavailable(GatewayError):
    """A store is away for now: try again later."""


class StoreUnavailable(Unavailable):
    """PostgreSQL does not answer; nothing was promised."""


class ClusterUnavailable(Unavailable):
    """Valkey does not answer."""


class OutcomeUnknown(GatewayError):
    """The connection broke during COMMIT and nobody can say whether the row exists."""


class NotFirst(GatewayError):
    """Another request has a key that this one needs: certainly not stored."""


class KeyTaken(NotFirst):
    """The Idempotency-Key is taken: by a request with this digest, whose first message is this."""

    def __init__(self, digest: bytes, first_id: int) -> None:
        super().__init__("the key is taken")
        self.digest = digest
        self.first_id = first_id


class RefsTaken(NotFirst):
    """client_refs are taken: place in the accept to the message that has it."""

    def __init__(self, taken: dict[int, int]) -> None:
        super().__init__("client_refs are taken")
        self.taken = taken


class KeyBusy(NotFirst):
    """Another process is storing a request with the same key and does not come to an end."""


class LeaseLost(GatewayError):
    """Another process holds our process number with a newer epoch."""


class ConfigError(GatewayError):
    """A setting or a configuration file is wrong; the text names it and says what to do."""
