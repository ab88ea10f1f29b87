"""Tools for tests, imported as in `from kit.services import url_of`. No module here is a test."""
