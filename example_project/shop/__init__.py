"""The Django app with models, admin, page, handlers and tasks."""
