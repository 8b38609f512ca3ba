"""The part that fetches Python packages for all sessions, and keeps what it fetched."""
