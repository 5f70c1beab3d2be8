"""The addresses of the pages, below the site's root."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from devices.dashboard import views

urlpatterns = [
    path("", views.dashboard, name="dashboard"),
    path("devices/<int:device_id>/", views.device_page, name="device"),
    path("devices/<int:device_id>/history", views.device_history, name="device-history"),
    path("devices/<int:device_id>/value", views.device_value, name="device-value"),
    path("favicon.ico", views.favicon),
    path("login/", views.Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]
