"""Django's part of the addresses: the pages and the admin. project/asgi.py has the rest."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("devices.dashboard.urls")),
]
