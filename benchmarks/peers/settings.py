"""Django's settings of the peer."""

import os

SECRET_KEY = "benchmark"
USE_TZ = True
INSTALLED_APPS = ["peers"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["PEER_DATABASE"],
        # The durability that ours has.
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
        },
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        # channels_redis 4.3 loses messages to the socket timeout that redis-py 8 sets unless told otherwise.
        "CONFIG": {"hosts": [{"address": os.environ["PEER_REDIS"], "socket_timeout": None}]},
    }
}
