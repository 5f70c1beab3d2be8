"""The Django app of the product: devices, their credentials and readings, and the pages that show them."""
