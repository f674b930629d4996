"""Runs in a guest, waits in its memory while that is saved, and renews what makes the guest itself once it goes on.

golden sends this file's text into the guest; it imports nothing of golden's and runs with Python 3.6 or later. It waits
at the second serial port for a line of JSON: {"now", "entropy", "machine_id", "hostname", "macs", "host_keys",
"authorized_key"}; to any other line it answers that it waits. The host keys are made by the host: faster
than a guest without an accelerator, and the guest's random numbers are still those that all clones were saved with.
"""

import array
import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import sys
import termios
import time
import tty
from pathlib import Path
from typing import Any

PORT = Path("/dev/ttyS1")
READY = b"golden: waiting\n"
REACHABLE = b"golden: reachable\n"
DONE = b"golden: renewed\n"
FAILED = b"golden: failed: "

# Source: linux/random.h, linux/sockios.h.
RNDADDENTROPY, RNDRESEEDCRNG = 0x40085203, 0x5207
SIOCGIFADDR, SIOCGIFHWADDR, SIOCSIFHWADDR = 0x8915, 0x8927, 0x8924

SSH, LIB = Path("/etc/ssh"), Path("/var/lib")

# What networkd says of each card, and where files of its are that live as long as the machine is on.
LINKS, NETWORKS = Path("/run/systemd/netif/links"), Path("/run/systemd/network")

# Where a profile may be tied to one card, and by which words.
PROFILES = (
    Path("/etc/NetworkManager/system-connections"),
    Path("/run/NetworkManager/system-connections"),
    Path("/etc/sysconfig/network-scripts"),
)
TIES = ("mac-address", "hwaddr")
IPV6 = Path("/proc/sys/net/ipv6/conf")

BREATH_S = 2
ADDRESS_S = 5
LISTEN_S = 5
SSH_PORT = 22


def stir(random: int, entropy: bytes) -> None:
    """The kernel's random numbers: mixed with what the host sent, and drawn anew at once. random: /dev/random, open."""
    block = struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy
    fcntl.ioctl(random, RNDADDENTROPY, array.array("B", block))
    with contextlib.suppress(OSError):  # kernels before 4.20 draw anew by themselves
        fcntl.ioctl(random, RNDRESEEDCRNG)


def opened(*paths: Path) -> Any:
    """Those of the files that are there."""
    return [os.open(str(path), os.O_RDWR) for path in paths if path.is_file() and not path.is_symlink()]


def rewrite(handle: int, content: bytes) -> None:
    """In place: some of these files are bind mounts, and mode and group stay."""
    os.pwrite(handle, content, 0)
    os.ftruncate(handle, len(content))


def call(*words: str) -> int:
    """Run a program to its end; its status."""
    return os.spawnvp(os.P_WAIT, words[0], list(words))


def find_cards() -> Any:
    """Address -> card."""
    return {(card / "address").read_text().strip(): card.name for card in Path("/sys/class/net").iterdir()}


def have_changes_told() -> None:
    """From now on the kernel tells the network at once when a card's address changes."""
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/conf/all/arp_notify").write_text("1\n")


def change_cards(cards: Any, macs: Any) -> Any:
    """macs: old address -> new. Returns the cards that there are of these: they may be without an IPv4 address now."""
    changed = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        for old, new in macs.items():
            if old in cards:
                changed.append(cards[old])
                request = bytearray(fcntl.ioctl(handle, SIOCGIFHWADDR, struct.pack("16s16x", cards[old].encode())))
                request[18:24] = bytes.fromhex(new.replace(":", ""))
                fcntl.ioctl(handle, SIOCSIFHWADDR, bytes(request))
    return changed


def has_address(card: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        try:
            fcntl.ioctl(handle, SIOCGIFADDR, struct.pack("16s16x", card.encode()))
        except OSError:
            return False
    return True


def wait_for_addresses(cards: Any) -> None:
    """A DHCP client may ask anew when its card's address changes; who connects meanwhile would wait for seconds."""
    deadline = time.monotonic() + ADDRESS_S
    while not all(map(has_address, cards)) and time.monotonic() < deadline:
        time.sleep(0.02)


def keep_addresses(cards: Any) -> Any:
    """Have networkd keep what DHCP gave a card whose address changes, until it is given the same again.

    cards: those that have got one. Else the card is without an address for a moment, and who connects then waits for
    seconds. NetworkManager needs no telling: it leaves a card alone whose address changes, and takes it over as it is
    when it is restarted (1.42). Returns the files that say so, which are in memory alone.
    Source: systemd.network(5), KeepConfiguration; networkctl(1), reload.
    """
    files = []
    for link in LINKS.glob("*"):
        for line in link.read_text().splitlines():
            if line.startswith("NETWORK_FILE=/"):
                folder = NETWORKS / (Path(line.split("=", 1)[1]).name + ".d")
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                files.append(folder / "zz-golden-agent.conf")
                files[-1].write_text("[Network]\nKeepConfiguration=dhcp\n")
    if files:
        call("networkctl", "reload")
        # It takes the address away, and asks for it again.
        time.sleep(BREATH_S)
        wait_for_addresses(cards)
    return files


def find_sshd() -> int:
    """The process that listens, if it has to be told of new keys; else 0. Looked for before the memory is saved."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            lines = status.read_text().splitlines()
            if lines[0] == "Name:\tsshd" and "PPid:\t1" in lines:
                return int(status.parent.name) if keeps_its_keys(status.parent) else 0
    return 0


def keeps_its_keys(sshd: Path) -> bool:
    """Whether the process hands the keys that it read on, to the program for a connection (OpenSSH from 9.8 on).

    Before, it starts itself anew for each connection and reads the keys then, unless it was told not to, by -r.
    sshd: its folder in /proc. Source: OpenSSH's sshd.c of 8.7, 9.2 and 9.8, "rexec_flag".
    """
    words = (sshd / "cmdline").read_bytes().replace(b"\0", b" ").split()
    return any(word[:1] == b"-" and b"r" in word for word in words) or b"sshd-session" in (sshd / "exe").read_bytes()


def open_host_keys() -> Any:
    """Kind -> private and public half, open. Wherever they are links to: none may stay what it is."""
    found = {}
    for path in SSH.glob("ssh_host_*_key"):
        halves = [half for half in (path, path.with_name(path.name + ".pub")) if half.exists()]
        found[path.name[len("ssh_host_") : -len("_key")]] = [os.open(str(half), os.O_RDWR) for half in halves]
    return found


def replace_host_keys(old: Any, new: Any) -> bool:
    """new: kind -> private and public half, made by the host. Whether RSA is left to do, which takes long here."""
    for kind, handles in old.items():
        if kind in new:
            for number, handle in enumerate(handles):
                rewrite(handle, new[kind][number].encode())
        else:
            for path in SSH.glob("ssh_host_" + kind + "_key*"):
                path.unlink()
    return "rsa" in old


def give_to_group(path: Path) -> None:
    """EL's sshd reads keys of the group ssh_keys."""
    with contextlib.suppress(LookupError, OSError):
        shutil.chown(str(path), group="ssh_keys")
        path.chmod(0o640)


def let_in(line: str) -> None:
    keys = Path("/root/.ssh/authorized_keys")
    keys.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with keys.open("a") as file:
        file.write(line + "\n")


def untie(macs: Any) -> None:
    """Profiles that are for a card of one of these addresses, which no card will have again, are for any."""
    for path in [path for folder in PROFILES for path in folder.glob("*") if path.is_file()]:
        with contextlib.suppress(UnicodeDecodeError):
            lines = path.read_text().splitlines(True)
            kept = [line for line in lines if not is_tie(line, macs)]
            if kept != lines:
                path.write_text("".join(kept))


def is_tie(line: str, macs: Any) -> bool:
    word, _, value = line.partition("=")
    return word.strip().lower() in TIES and value.strip().strip("\"'").lower() in macs


def forget_ipv6(cards: Any) -> None:
    """Addresses that follow from the old MAC address, machine-id or secret; nobody else gives them up."""
    for card in cards:
        switch = IPV6 / card / "disable_ipv6"
        if switch.exists() and switch.read_text().strip() == "0":
            switch.write_text("1\n")
            switch.write_text("0\n")


def restart_others(has_rsa: bool, here: Any) -> None:
    """What has the old machine-id in mind: the journal, and DHCP's identifiers, which are made of it."""
    for folder, pattern in (("NetworkManager", "*.lease"), ("NetworkManager", "secret_key"), ("dhclient", "*")):
        for path in (LIB / folder).glob(pattern):
            path.unlink()
    units = [unit for unit in ("systemd-networkd", "NetworkManager") if call("systemctl", "-q", "is-active", unit) == 0]
    call("systemctl", "--no-block", "restart", "systemd-journald")
    if units:
        untie(here.cards)
        call("systemctl", "stop", *units)
        forget_ipv6(here.with_address)
        call("systemctl", "start", *units)  # is over when it has read its files
    for file in here.kept:
        file.unlink()
    if has_rsa:
        os.nice(10)  # seconds of a processor, under those who are at work here by now
        path = SSH / "ssh_host_rsa_key"
        call("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(path))
        give_to_group(path)
        hang_up(here.sshd)


def hang_up(sshd: int) -> None:
    """sshd begins anew with the keys that are there now, as the same process. Source: sshd(8), SIGHUP."""
    if sshd:
        os.kill(sshd, signal.SIGHUP)


def listeners() -> Any:
    """Inodes of the sockets that listen at SSH's port. Source: proc_net_tcp in the kernel's documentation."""
    found = set()
    for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        lines = path.read_text().splitlines()[1:] if path.exists() else []
        for _, here, _, state, _, _, _, _, _, inode, *_ in map(str.split, lines):
            if state == "0A" and int(here.split(":")[1], 16) == SSH_PORT:
                found.add(inode)
    return found


def wait_for_listener(before: Any) -> None:
    """Until others than `before` listen: who asks while there is none is refused, and has to ask again."""
    deadline = time.monotonic() + LISTEN_S
    while time.monotonic() < deadline:
        now = listeners()
        if now and not now & before:
            return
        time.sleep(0.01)


class Here:
    """What is to be changed, found and opened before the memory is saved.

    A guest without an accelerator that goes on is slow at whatever it does for the first time.
    """

    def __init__(self) -> None:
        self.sshd = find_sshd()
        self.listeners = listeners() if self.sshd else set()
        self.random = os.open("/dev/random", os.O_WRONLY)
        self.seeds = opened(Path("/var/lib/systemd/random-seed"), Path("/var/lib/random-seed"))
        self.ids = opened(*map(Path, ("/etc/machine-id", "/run/machine-id", "/var/lib/dbus/machine-id")))
        self.hostname = opened(Path("/etc/hostname"))
        self.host_keys = open_host_keys()
        self.certificates = list(SSH.glob("ssh_host_*-cert.pub"))
        self.cards = find_cards()
        self.with_address = [card for card in self.cards.values() if has_address(card)]
        have_changes_told()
        self.kept = keep_addresses(self.with_address)


def renew(order: Any, here: Here, say: Any) -> bool:
    """First what a login has to do with: the host begins one as soon as that is said, and the rest is done beside.

    say: sends a word to the host. Returns whether an RSA key is left to make.
    """
    time.clock_settime(time.CLOCK_REALTIME, order["now"])
    stir(here.random, base64.b64decode(order["entropy"]))
    if order.get("authorized_key"):
        let_in(order["authorized_key"])
    has_rsa = replace_host_keys(here.host_keys, order["host_keys"])
    for path in here.certificates:
        path.unlink()
    hang_up(here.sshd)
    changed = change_cards(here.cards, order["macs"])
    if not here.kept:
        wait_for_addresses([card for card in changed if card in here.with_address])
    if here.listeners:
        wait_for_listener(here.listeners)
    say(REACHABLE)
    for seed in here.seeds:
        os.pwrite(seed, os.urandom(512), 0)
    for handle in here.ids:
        rewrite(handle, order["machine_id"].encode() + b"\n")
    socket.sethostname(order["hostname"])
    for handle in here.hostname:
        rewrite(handle, order["hostname"].encode() + b"\n")
    return has_rsa


def read_lines(port: Any) -> Any:
    """As many bytes at a time as there are: each call costs."""
    rest = b""
    while True:
        more = port.read(4096)
        if not more:
            raise EOFError("the serial port was hung up")
        *whole, rest = (rest + more).split(b"\n")
        yield from whole


def make_raw(port: Any) -> None:
    """Bytes as they come, whether anybody is connected or not."""
    tty.setraw(port.fileno())
    attributes = termios.tcgetattr(port.fileno())
    attributes[2] |= termios.CLOCAL
    termios.tcsetattr(port.fileno(), termios.TCSANOW, attributes)


def main() -> int:
    here = Here()
    with PORT.open("r+b", buffering=0) as port:
        make_raw(port)
        port.write(READY)
        for line in read_lines(port):
            if line.startswith(b"{"):
                break
            port.write(READY)
        try:
            has_rsa = renew(json.loads(line.decode()), here, port.write)
        except Exception as error:
            port.write(FAILED + repr(error).encode() + b"\n")
            return 1
        port.write(DONE)
    # Whoever waits for the guest to answer comes first: without an accelerator this takes a second of its processor.
    time.sleep(BREATH_S)
    restart_others(has_rsa, here)
    return 0


if __name__ == "__main__":
    sys.exit(main())
