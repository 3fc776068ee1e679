"""The change feed: what events there are, where a reader stands in them, and how it is told of new ones.

The rows of the feed are the store's (`mailgate.store.feed`).
"""
