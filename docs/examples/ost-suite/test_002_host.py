"""A single host, fresh for each test: what one breaks, the next does not see."""


def test_breaking_it(golden_clone):
    golden_clone.run("rm", "-rf", "/usr/lib/os-release")
    assert not golden_clone.host.file("/usr/lib/os-release").exists
