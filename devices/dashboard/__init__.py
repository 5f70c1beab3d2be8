"""What people see: the dashboard, the page of a device, logging in."""
