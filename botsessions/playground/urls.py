"""Addresses: `path("playground/", include("botsessions.playground.urls"))`."""

from django.urls import path

from botsessions.playground import views

app_name = "playground"

urlpatterns = [
    path("", views.page, name="page"),
    path("messages/", views.messages, name="messages"),
    path("say/", views.say, name="say"),
    path("press/", views.press, name="press"),
]
