"""Benchmarks that compare datastream-ws with other clients on one machine."""
