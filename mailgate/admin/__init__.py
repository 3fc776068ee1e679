"""The pages at /admin: rendered by the gateway, over the same use cases as the HTTP interface."""
