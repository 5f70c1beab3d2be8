"""The process of `gateway serve`: its parts, their order, its log, its control socket."""
