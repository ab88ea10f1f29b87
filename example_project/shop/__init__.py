"""The Django app: models, admin, page, handlers and tasks."""
