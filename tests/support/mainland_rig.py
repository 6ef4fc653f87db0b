"""Loopback carriers of SGIP and SMGP in the test's own loop, for the conformance suite."""

from adapters.sgip.channel import SgipChannel
from adapters.shell import WireChannel
from adapters.smgp.channel import SmgpChannel
from loadtest.dialects import Side
from loadtest.sgip_server import SgipServer
from loadtest.smgp_server import SmgpServer
from sms import config
from tests.support.smpp_rig import SmppRig


class SgipRig(SmppRig):
    """An SMG that pushes reports over the SP's connection, as some do."""

    protocol = "sgip"

    def make_side(self) -> Side:
        """The carrier's end of one connection."""
        return SgipServer(pushes_here=True)

    def settings(self) -> dict[str, object]:
        """The channel's own, but for host and port."""
        return {"login_name": "fakename", "password": "1234", "node_id": 3010012345}

    def make_channel(self, channel: config.Channel) -> WireChannel:
        """Our end."""
        return SgipChannel(channel, self.sink, self._policy)

    def id_of(self, number: int, sequence: int) -> str:
        """The submit's own number."""
        return f"{sequence:024x}"


class SmgpRig(SmppRig):
    """An SMGW."""

    protocol = "smgp"

    def make_side(self) -> Side:
        """The carrier's end of one connection."""
        return SmgpServer()

    def settings(self) -> dict[str, object]:
        """The channel's own, but for host and port."""
        return {"client_id": "10690001", "shared_secret": "888888"}

    def make_channel(self, channel: config.Channel) -> WireChannel:
        """Our end."""
        return SmgpChannel(channel, self.sink, self._policy)

    def id_of(self, number: int, sequence: int) -> str:
        """Ten octets, as digits."""
        return f"{number:020}"
