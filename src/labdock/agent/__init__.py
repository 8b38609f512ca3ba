"""The only part with the Docker socket: guards the engine, keeps sessions apart, knows the people."""
