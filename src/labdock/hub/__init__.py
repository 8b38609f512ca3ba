"""What runs inside the hub: sessions, sign-in and pages."""
