"""What a program with a stream looks like: ``python -m example_project.demo``."""
