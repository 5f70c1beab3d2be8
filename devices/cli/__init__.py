"""The commands of the product, one module for each group: `gateway device`, `gateway attribute`, `gateway command`,
`gateway explain`, `gateway acl`."""
