"""The promises of the service, one file for each verb, against a real PostgreSQL."""
