"""Starting a job: rank tables, addresses, one process per device, watching them."""
