"""Sign-in providers for the tests: small servers that speak the interfaces of the real ones, over HTTPS."""
