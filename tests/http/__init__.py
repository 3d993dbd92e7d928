"""Tests of the service over HTTP: routes, headers, bodies, streams, limits, proxies, browsers."""
