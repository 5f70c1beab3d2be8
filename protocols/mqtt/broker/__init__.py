"""Who has subscribed to what, and what each session is to be sent. No bytes, no sockets."""
