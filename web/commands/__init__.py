"""The web wing's commands."""
