"""How an application instance runs: its handlers, background work, mailbox, and threads for what is synchronous."""
