"""What people do in a browser: a real Chromium against the project as `make run` starts it."""
