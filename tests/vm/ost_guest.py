"""What a harness written for ost-images expects of a guest, line by line. `golden test` runs it for test_harness.py."""

import time


def test_machine_and_devices(golden_clone):
    host = golden_clone.host
    assert "Q35" in host.file("/sys/class/dmi/id/product_name").content_string
    assert host.file("/dev/vda").exists
    assert "virtio_net" in host.check_output("readlink -f /sys/class/net/e*/device/driver")


def test_serial_console(golden_clone):
    host = golden_clone.host
    assert "console=ttyS0" in host.file("/proc/cmdline").content_string
    assert host.check_output("systemctl is-active serial-getty@ttyS0") == "active"
    assert "Linux version" in golden_clone.console()
    # The prompt comes some time after sshd is up.
    deadline = time.monotonic() + 300
    while "login:" not in golden_clone.console() and time.monotonic() < deadline:
        time.sleep(2)
    assert "login:" in golden_clone.console()


def test_default_target_is_active_unattended(golden_clone):
    assert golden_clone.host.check_output("systemctl is-active default.target") == "active"


def test_guest_agent(golden_clone):
    assert golden_clone.host.check_output("systemctl is-active qemu-guest-agent") == "active"


def test_dhcp_with_one_default_route(golden_clone):
    host = golden_clone.host
    assert "dynamic" in host.check_output("ip -4 -o address show scope global")
    assert len(host.check_output("ip -4 route show default").splitlines()) == 1


def test_one_ipv6_address_that_the_network_gave(golden_clone):
    """As its router says; QEMU's user-mode network has no DHCPv6 that gives addresses."""
    command = "ip -6 -o address show dynamic scope site"
    deadline = time.monotonic() + 300
    while not golden_clone.host.check_output(command) and time.monotonic() < deadline:
        time.sleep(2)
    assert len(golden_clone.host.check_output(command).splitlines()) == 1


def test_no_hostname_is_baked_in(golden_clone):
    said = golden_clone.host.check_output("cat /etc/hostname 2>/dev/null || true")
    assert said in ("", "localhost", "localhost.localdomain", golden_clone.address.clone)


def test_root_by_key(golden_clone):
    assert golden_clone.host.user().name == "root"


def test_utc(golden_clone):
    assert golden_clone.host.check_output("date +%Z") == "UTC"


def test_python3(golden_clone):
    assert golden_clone.host.check_output("python3 -c 'print(6 * 7)'") == "42"


def test_dnf_works_without_repositories_and_its_cache_is_clean(golden_clone):
    host = golden_clone.host
    assert host.check_output("find /var/cache/dnf /var/cache/libdnf5 -type f 2>/dev/null || true") == ""
    assert "systemd" in host.check_output("dnf -q '--disablerepo=*' list --installed systemd")
