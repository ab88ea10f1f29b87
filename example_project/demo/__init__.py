"""The demo, which runs the shop on one machine: ``python -m example_project.demo``."""
