"""The rules of the domain: one module for each operation or rule of the contract."""
