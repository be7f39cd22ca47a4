"""The project that runs botsessions here, and shows how to set it up in yours."""

from project.celery import app as celery_app

__all__ = ["celery_app"]
