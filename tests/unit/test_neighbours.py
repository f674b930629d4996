from __future__ import annotations

from pathlib import Path

from builder.tools import neighbours

TABLE = """\
IP address       HW type     Flags       HW address            Mask     Device
192.168.122.173  0x1         0x2         52:54:00:1d:d0:74     *        virbr0
192.168.122.174  0x1         0x0         52:54:00:1d:d0:75     *        virbr0
10.1.2.3         0x1         0x6         52:54:00:1d:d0:76     *        br0
"""


def test_addresses_come_in_the_order_of_the_cards_and_unanswered_ones_not(tmp_path: Path) -> None:
    table = tmp_path / "arp"
    table.write_text(TABLE)
    cards = ["52:54:00:1D:D0:76", "52:54:00:1d:d0:75", "52:54:00:1d:d0:74", "52:54:00:00:00:00"]
    assert neighbours.addresses(cards, table=table) == ["10.1.2.3", "192.168.122.173"]


def test_this_hosts_own_table_is_read() -> None:
    assert neighbours.addresses(["52:54:00:00:00:00"]) == []
