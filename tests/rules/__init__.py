"""What the domain promises: one module for each rule or verb of the contract."""
