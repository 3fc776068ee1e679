"""The HTTP interface: routes over the store's use cases, bearer tokens with scopes, problems as RFC 9457 has them."""
