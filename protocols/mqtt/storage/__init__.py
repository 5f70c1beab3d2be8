"""Where sessions and retained messages outlive the process: one interface, kept in memory, by SQLite or by Redis."""
