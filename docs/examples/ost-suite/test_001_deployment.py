"""The machines of the deployment are up, are what they should be, and are not twins. One deployment for the session."""


def test_distribution(engine, host0, ost_images_distro):
    for host in (engine, host0):
        found = host.file("/etc/os-release").content_string
        assert f'ID="{ost_images_distro}"' in found or f"ID={ost_images_distro}" in found


def test_booted_unattended(engine, host0):
    for host in (engine, host0):
        assert host.check_output("systemctl is-active default.target") == "active"


def test_root_by_key_alone(engine, ssh_key_file):
    assert ssh_key_file.exists()
    assert engine.user().name == "root"
    assert engine.file("/root/.ssh/authorized_keys").mode == 0o600


def test_machines_are_not_twins(engine, host0):
    for path in ("/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub"):
        assert engine.file(path).content_string != host0.file(path).content_string


def test_machines_reach_each_other(deploy):
    place = deploy["host0"].place_of(22)
    program = f"import socket; print(socket.create_connection({place}, 30).recv(4).decode())"
    assert deploy["engine"].run("python3", "-c", program) == "SSH-\n"


def test_machines_know_each_other_by_name(engine, host0):
    program = "import socket, sys; print(socket.create_connection((sys.argv[1], 22), 30).recv(4).decode())"
    for host, other in ((engine, "host0"), (host0, "engine")):
        assert host.check_output("python3 -c %s %s", program, other) == "SSH-"


def test_one_default_route_with_two_cards(engine, host0):
    for host in (engine, host0):
        assert len(host.check_output("ls /sys/class/net").split()) == 3  # and lo
        (line,) = host.check_output("ip -4 route show default").splitlines()
        assert " dev lo " not in line and "10.0.2." in line


def test_files_travel(deploy, working_dir):
    (working_dir / "setup.conf").write_text("answer = 42\n")
    deploy["engine"].send(working_dir / "setup.conf", "/etc/setup.conf")
    fetched = deploy["engine"].fetch("/etc/setup.conf", working_dir / "fetched.conf")
    assert fetched.read_text() == "answer = 42\n"
