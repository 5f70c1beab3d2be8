"""Django's settings, all of which follow from the gateway's configuration; docs/configuration.md is what people edit.

Reading the configuration is all that importing this module does.
"""

import hashlib
import secrets
from typing import Any
from urllib.parse import unquote, urlsplit

from django.conf import global_settings

from gateway.config import Config, current
from gateway.layers.url import channel_layers_from_url
from protocols.durable_sqlite import PRAGMAS

config = current()


# As many as there are threads (gateway.dispatch.threads). A minute, as what a name stands for may change: after a
# failover the old server may live on, and be read-only.
KEPT_CONNECTIONS = {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
LOCK_TIMEOUT_S = 5
"""How long a page waits for a lock of another program."""


def database(config: Config) -> dict[str, Any]:
    """The entry of DATABASES."""
    sqlite_file = config.sqlite_file()
    if sqlite_file is not None:
        return {
            "ENGINE": "gateway.databases.sqlite",
            "NAME": sqlite_file,
            **KEPT_CONNECTIONS,
            "OPTIONS": {
                "timeout": LOCK_TIMEOUT_S,
                "transaction_mode": "IMMEDIATE",  # a transaction that reads first would otherwise fail, not wait
                # FULL: an acknowledged reading survives a power cut.
                "init_command": "; ".join(f"PRAGMA {pragma}" for pragma in PRAGMAS),
            },
        }
    parts = urlsplit(config.database_url)
    parameters = config.database_parameters()
    options = f"-c lock_timeout={LOCK_TIMEOUT_S}s {parameters.get('options', '')}".strip()
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": unquote(parts.hostname or ""),
        "PORT": parts.port or "",
        **KEPT_CONNECTIONS,
        "OPTIONS": parameters | {"options": options},
    }


def allowed_hosts(config: Config) -> list[str]:
    """The host names that a browser may ask for: those of the listeners, of the public address, and configured ones."""
    hosts = {"localhost", "127.0.0.1", "[::1]", *config.server.allowed_hosts}
    named = {
        listener.host for listener in config.listeners if listener.protocol == "http" and not listener.is_everywhere
    }
    if config.server.public_url:
        named.add(urlsplit(config.server.public_url).hostname)
    return sorted(hosts | {f"[{host}]" if ":" in host else host for host in named if host})


def is_encrypted(config: Config) -> bool:
    """Whether browsers come by HTTPS and nothing else."""
    if config.server.public_url:
        return config.server.public_url.startswith("https:")
    http = [listener for listener in config.listeners if listener.protocol == "http"]
    return bool(http) and all(listener.tls for listener in http)


# Before the first `gateway serve` there is no key: one for this process alone lets every other command run.
SECRET_KEY = config.secret_key() or secrets.token_urlsafe(50)
DEBUG = False
DEBUG_PROPAGATE_EXCEPTIONS = True  # to project.failures, which answers in Django's stead
ALLOWED_HOSTS = allowed_hosts(config)
CSRF_TRUSTED_ORIGINS = [config.server.public_url] if config.server.public_url else []
# Browsers send a cookie to every port of a host: two gateways there would end each other's logins. Gateways that share
# a key share their logins.
_COOKIES = hashlib.sha256(f"cookies {SECRET_KEY}".encode()).hexdigest()[:8]
SESSION_COOKIE_NAME = f"sessionid_{_COOKIES}"
CSRF_COOKIE_NAME = f"csrftoken_{_COOKIES}"
SESSION_ENGINE = "project.sessions"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"  # the other one is a cookie
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = is_encrypted(config)
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_HSTS_SECONDS = 30 * 24 * 3600 if is_encrypted(config) else 0
X_FRAME_OPTIONS = "DENY"

INSTALLED_APPS = [
    "project",
    "devices",
    "gateway",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "devices.dashboard.csp.page_headers",
    "project.failures.answer_failures",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "devices.passwords.PasswordsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
DATABASES = {"default": database(config)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CHANNEL_LAYERS = channel_layers_from_url(config.layer.url)

AUTHENTICATION_BACKENDS = ["devices.passwords.PasswordBackend"]
PASSWORD_HASHERS = ["devices.passwords.OneAtATimeHasher", *global_settings.PASSWORD_HASHERS[1:]]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "/static/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "project.static.HashedStorage"},
}
LOGGING_CONFIG = None  # the command line sets logging up, from [log]
