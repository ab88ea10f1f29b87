"""What tests share: `from kit.services import url_of`. Nothing here is a test."""
