"""What clients, browsers and proxies meet: routes, headers, bodies, streams, limits."""
