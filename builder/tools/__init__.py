"""One file per outside program or library: pure builders of argv and XML, and the calls."""
