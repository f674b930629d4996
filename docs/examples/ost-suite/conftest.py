"""What the tests of an OST-style suite share: the machines of a deployment, the way in, and where logs go.

pip install 'golden[pytest]'
pytest docs/examples/ost-suite --golden-image rocky9-engine-installed --golden-keep-logs artifacts
"""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ssh_key_file(golden_lab):
    return golden_lab.key


@pytest.fixture(scope="session")
def ost_images_distro(golden_image):
    return golden_image.partition("-")[0]


@pytest.fixture(scope="session")
def working_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("deployment")


@pytest.fixture(scope="session")
def artifacts_dir(request, working_dir):
    folder = request.config.getoption("golden_keep_logs") or working_dir / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def backend(golden_machines):
    """What makes the machines of a deployment, and what another backend would have to be: roles in, machines out."""
    return golden_machines


@pytest.fixture(scope="session")
def deploy(backend, golden_image, artifacts_dir):
    """An engine and a host, of one image here, on a network of their own; logs and package lists of both are kept."""
    with backend(engine=golden_image, host0=golden_image, lan=True) as machines:
        yield machines
        for name, machine in machines.items():
            Path(artifacts_dir, f"{name}-pkglist.txt").write_text(machine.packages())
            Path(artifacts_dir, f"{name}-console.log").write_text(machine.console())


@pytest.fixture(scope="session")
def engine(deploy):
    return deploy["engine"].host


@pytest.fixture(scope="session")
def host0(deploy):
    return deploy["host0"].host
