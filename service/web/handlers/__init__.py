"""The handlers: parse, call, answer. One for each verb of the contract."""
