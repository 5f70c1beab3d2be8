"""What one would assemble today from the parts that there are, for the benchmarks to be compared with.

Mosquitto takes the devices' messages; a worker subscribes with aiomqtt, stores each value with Django's ORM and tells a
group of Channels by channels_redis' pub/sub layer; uvicorn serves the dashboards' WebSocket consumer. Each is set up as
its documentation has it, and in favour of the peer where there is a choice: no authentication, no other work, database
in WAL mode, Mosquitto without Nagle's algorithm and with unlimited queues, C parsers and uvloop everywhere.
"""
