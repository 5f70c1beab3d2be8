"""The HTTP server: HTTP/1.1, server-sent events and WebSocket on one port, each request an ASGI application instance.

    server       its listeners                        websocket             a WebSocket as an ASGI application
    connection   requests in, in turn                 websocket_connection  its frames, pings and close
    exchange     one request and its response         websocket_tunnel      a byte stream carried in one
    request      head -> scope, or a refusal          websocket_wire        handshake and frames as bytes
    response     event -> head                        aiohttp_parsers       the parsers beneath it all

Not spoken: HTTP/2, trailers, permessage-deflate.
"""

from protocols.http.options import HttpOptions as HttpOptions
from protocols.http.server import HttpServer as HttpServer
