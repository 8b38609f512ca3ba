"""One outside system each, with its quirks; no policy; none imports another."""
