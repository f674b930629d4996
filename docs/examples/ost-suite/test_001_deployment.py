"""The machines of the deployment are up, are what they should be, and are not twins. One deployment for the module."""


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


def test_files_travel(deploy, working_dir):
    (working_dir / "setup.conf").write_text("answer = 42\n")
    deploy["engine"].send(working_dir / "setup.conf", "/etc/setup.conf")
    fetched = deploy["engine"].fetch("/etc/setup.conf", working_dir / "fetched.conf")
    assert fetched.read_text() == "answer = 42\n"
