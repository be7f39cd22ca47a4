"""Signs of life for whoever watches the process: three addresses that are no platform's.

    /healthz   this process answers; nothing else is looked at
    /readyz    what it needs answers too, and nothing waits for long
    /metrics   figures for Prometheus

To be included at the root: `path("", include("botsessions.health.urls"))`.
"""
