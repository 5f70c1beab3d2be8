"""The commands of the product, one module for each group: `gateway device`, `gateway explain`, `gateway acl`."""
