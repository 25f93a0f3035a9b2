"""Tests, and the stand-in vendor that they and the demo talk to."""
